#!/bin/sh
# Behaves like the official image for what testcontainers and our tests need: POSTGRES_USER, _PASSWORD and _DB, PGDATA,
# a server on all addresses with scram-sha-256; arguments go to postgres.
set -eu
: "${POSTGRES_USER:=postgres}" "${POSTGRES_DB:=$POSTGRES_USER}" "${PGDATA:=/var/lib/postgresql/data}"
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
export PATH PGDATA
case ${1:-postgres} in
-*) set -- postgres "$@" ;;
postgres) ;;
*) exec "$@" ;;
esac
if [ "$(id -u)" = 0 ]; then # PostgreSQL refuses to run as root
    mkdir -p "$PGDATA" /var/run/postgresql
    chown -R postgres:postgres "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups --inh-caps=-all "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?must be given, because the server listens on all addresses}"
    umask 077
    passwords=$(mktemp)
    printf '%s\n' "$POSTGRES_PASSWORD" >"$passwords"
    initdb --username="$POSTGRES_USER" --pwfile="$passwords" -E UTF8 --locale=C.UTF-8 \
        --auth-local=trust --auth-host=scram-sha-256 >/dev/null
    rm "$passwords"
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    # The database is made on a socket only: whoever can connect over TCP finds it ready.
    pg_ctl -w -o "-c listen_addresses='' -k /var/run/postgresql" start
    [ "$POSTGRES_DB" = postgres ] || createdb -h /var/run/postgresql -U "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl -w -m fast stop
fi
shift
exec postgres -c listen_addresses='*' -k /var/run/postgresql "$@"
