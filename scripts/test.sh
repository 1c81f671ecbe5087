#!/usr/bin/env bash
# All tests, against the newest PostgreSQL there is, on all processors; arguments go to pytest (--pg=all: every PostgreSQL
# found; -n 0: in one process, for a debugger).
cd "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." || exit
exec scripts/bootstrap.sh test -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal "$@"
