#!/usr/bin/env bash
# bootstrap.sh run|test ARGUMENT…: Python with these arguments, this project's own code, and its locked packages.
# The packages are installed into .venv the first time and whenever requirements/<level>.txt has changed.
# PGVIGIL_PYTHON names an interpreter that has them already; then nothing is installed.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
project=${here%/*}
venv=$project/.venv
made=$venv/pgvigil-made # tells a .venv of ours, which may be made anew, from one that a person keeps
unset PYTHONHOME
export PYTHONPATH=$project/src
export PGVIGIL_PROGRAM=$here/pgvigil # what commands that we print begin with

fail() {
    printf 'pgvigil: %s\n' "$@" >&2
    exit 2
}

# Installers are talkative: their words are of use only when they fail.
quietly() {
    local words
    words=$("$@" 2>&1 </dev/null) || fail "$words" "this failed: $*" \
        "Check the network, free space (and pip's or apt's own settings for a mirror), then try again."
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed, and there is none on the PATH ($(python3 -V 2>&1 || true))." \
        "Install one (Debian 12 and newer: apt-get install python3), or name one in PGVIGIL_PYTHON."
}

# Debian packs the part of venv that brings pip separately.
need_ensurepip() {
    local python=$1 package
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        fail "$python cannot make virtual environments here: its module ensurepip is missing." \
            "Install it (Debian, Ubuntu: sudo apt-get install $package), then try again."
    fi
    export DEBIAN_FRONTEND=noninteractive
    quietly apt-get -o DPkg::Lock::Timeout=300 update
    quietly apt-get -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$package"
}

# What the environment holds when it is up to date: the lock, and the interpreter it was made with (a system upgrade
# leaves a .venv whose Python is another one and finds no packages).
stamp() {
    printf '%s %s' "$(sha256sum <"$project/requirements/$1.txt")" "$(readlink -f "$venv/bin/python")"
}

# The test lock holds all of the run lock, in the same versions.
is_ready() {
    local level
    [[ -x $venv/bin/python ]] || return
    for level in "$1" test; do
        [[ -e $venv/pgvigil-$level && $(<"$venv/pgvigil-$level") == "$(stamp "$level")" ]] && return
    done
    return 1
}

has_stamp() {
    [[ -e $venv/pgvigil-run || -e $venv/pgvigil-test ]]
}

install() {
    local level=$1 python
    printf 'pgvigil: installing the packages of requirements/%s.txt into %s\n' "$level" "$venv" >&2
    # Ours without a stamp: an installation was interrupted, and pip may take half a package for a whole one.
    if [[ -e $made ]] && ! has_stamp || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        need_ensurepip "$python"
        rm -rf "$venv"
        mkdir "$venv" || fail "$venv cannot be made." "Make $project writable, or name an interpreter in PGVIGIL_PYTHON."
        touch "$made"
        quietly "$python" -m venv "$venv"
    fi
    rm -f "$venv"/pgvigil-{run,test}
    quietly "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --require-hashes \
        -r "$project/requirements/$level.txt"
    stamp "$level" >"$venv/pgvigil-$level"
}

level=$1
shift
python=${PGVIGIL_PYTHON:-$venv/bin/python}
if [[ -z ${PGVIGIL_PYTHON:-} ]] && ! is_ready "$level"; then
    exec {lock}<"$project" # the directory itself: no lock file is left in the checkout
    flock "$lock"
    is_ready "$level" || install "$level"
    exec {lock}<&-
fi
# -P: modules come from the project and .venv, never from the directory that the caller stands in.
exec "$python" -P "$@"
