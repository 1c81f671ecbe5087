#!/usr/bin/env bash
# A new database with the whole schema, on an embedded server unless one is named: pgvigil setup (see --help).
exec "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/bootstrap.sh" run -m pgvigil setup "$@"
