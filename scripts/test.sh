#!/usr/bin/env bash
# The tests, against the newest PostgreSQL there is, on all processors; arguments go to pytest (--runslow: with those that
# take long and show little more, as CI runs them; --pg=all: every PostgreSQL found; -n 0: in one process, for a debugger).
cd "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." || exit
exec scripts/bootstrap.sh test -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal "$@"
