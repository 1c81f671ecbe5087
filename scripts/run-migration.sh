#!/usr/bin/env bash
# Bring a database, new or existing, to the newest schema: pgvigil migrate (--help lists the options).
exec "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/bootstrap.sh" run -m pgvigil migrate "$@"
