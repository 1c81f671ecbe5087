#!/usr/bin/env bash
# All tests, against the newest PostgreSQL there is; arguments go to pytest (--pg=all: every PostgreSQL found).
cd "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." || exit
exec scripts/bootstrap.sh test -m pytest "$@"
