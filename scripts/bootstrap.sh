#!/usr/bin/env bash
# bootstrap.sh run|test ARGUMENT…: Python with these arguments, this project's own code, and its locked packages.
# The packages are installed into .venv the first time and whenever requirements/<level>.txt has changed.
# PGVIGIL_PYTHON names an interpreter that has them already; then nothing is installed.
#
# Modules are never loaded from the caller's working directory, nor from a place that the caller's PYTHON… variables name:
# Python runs with -I while packages are installed, and with -P and a PYTHONPATH of the project alone afterwards.
set -euo pipefail
unset CDPATH PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONINSPECT PYTHONEXECUTABLE PYTHONPLATLIBDIR PYTHONPYCACHEPREFIX PYTHONBREAKPOINT

# A secret among the arguments could be read in the process list for as long as pip runs. It travels in the environment
# instead, under the number of its argument from the end, and what is shown in its place comes first (src/pgvigil/argv.py
# does the same, and reads it there).
hide_secrets() {
    local word prefix shown number=$# hidden=''
    local -a words=()
    shopt -s nocasematch
    for word; do
        prefix='' shown=$word
        [[ $word =~ ^(--[a-z-]+=)(.*)$ ]] && prefix=${BASH_REMATCH[1]} shown=${BASH_REMATCH[2]}
        if [[ $shown =~ ^([a-z0-9+.-]*://[^]/?#:@[:cntrl:]]*):.*@([^]@?=&[:cntrl:]]*)$ ]]; then
            shown=${BASH_REMATCH[1]}@${BASH_REMATCH[2]}
        elif [[ $shown =~ ://[^/?#:@]*:.*@ || $shown =~ [?\&][^=\&]*%[^=\&]*= ||
            $shown =~ (passw|passphrase|secret|token|scram_)[a-z_]*[[:space:]]*= ]]; then
            shown=hidden
        fi
        shown=$prefix$shown
        if [[ $shown != "$word" ]]; then
            export "PGVIGIL_ARGUMENT_$number=$shown"$'\n'"$word"
            hidden=yes
        fi
        words+=("$shown")
        number=$((number - 1))
    done
    shopt -u nocasematch
    [[ -z $hidden ]] || exec "$BASH" "${BASH_SOURCE[0]}" "${words[@]}"
}
hide_secrets "$@"

here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
project=${here%/*}
venv=$project/.venv
made=$venv/pgvigil-made              # a .venv of ours may be rebuilt, one that a person keeps may not
export PGVIGIL_PROGRAM=$here/pgvigil # what commands that we print begin with

fail() {
    printf 'pgvigil: %s\n' "$@" >&2
    exit 2
}

# Installers are talkative: their words are of use only when they fail.
quietly() {
    local words
    words=$(cd / && "$@" 2>&1 </dev/null) || fail "$words" "this failed: $*" \
        "Check the network, free space (and pip's or apt's own settings for a mirror), then try again."
}

# As quietly, for an installation that takes a while: what pip is at, on one line of a terminal, elsewhere now and then.
counting() {
    local words
    words=$(cd / && "$@" 2>&1 </dev/null | count_packages) || fail "$words" "this failed: $*" \
        "Check the network, free space (and pip's or apt's own settings for a mirror), then try again."
}

count_packages() {
    local line number=0 total said=$SECONDS every=10 begin='pgvigil: ' end=$'\n'
    total=$(grep -c '==' "$project/requirements/$level.txt" || true)
    [[ ! -t 2 ]] || every=0 begin=$'\r\e[Kpgvigil: ' end=''
    while IFS= read -r line; do
        printf '%s\n' "$line"
        case $line in
        Collecting\ * | Requirement\ already\ *) number=$((number + 1)) line="package $number of $total" ;;
        Installing\ collected\ *) line="writing the packages" ;;
        *) continue ;;
        esac
        if ((SECONDS - said >= every)); then
            printf '%s%s%s' "$begin" "$line" "$end" >&2
            said=$SECONDS
        fi
    done
    [[ -n $end ]] || printf '\r\e[K' >&2
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
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
    "$python" -I -c 'import ensurepip, venv' 2>/dev/null && return
    package=$("$python" -I -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
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

# It runs with the rights of whoever calls this, so it belongs to him, to root, or to whom the project's code belongs.
check_owner() {
    local owner
    [[ -e $venv || -L $venv ]] || return 0
    owner=$(stat -Lc %u -- "$venv" 2>/dev/null) || fail "$venv cannot be looked at." "Remove it, then try again."
    [[ $owner == "$(id -u)" || $owner == 0 || $owner == "$(stat -Lc %u -- "$project")" ]] ||
        fail "$venv belongs to another user (uid $owner): nothing in it is run." \
            "Remove it, then try again; or name an interpreter of your own in PGVIGIL_PYTHON."
    [[ -z $(find -L "$venv" -maxdepth 0 -perm -0002) ]] ||
        fail "every user can write to $venv: nothing in it is run." "Remove it, then try again."
}

venv_works() {
    "$venv/bin/python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

install() {
    local level=$1 python name
    printf 'pgvigil: installing the packages of requirements/%s.txt into %s\n' "$level" "$venv" >&2
    for name in "${!PGVIGIL_ARGUMENT_@}"; do export -n "${name?}"; done # no business of pip's
    # Ours without a stamp: an installation was interrupted, and pip may take half a package for a whole one.
    if [[ ! -e $venv || -e $made ]] && { ! has_stamp || ! venv_works; }; then
        python=$(find_python)
        need_ensurepip "$python"
        rm -rf "$venv"
        mkdir "$venv" || fail "$venv cannot be made." "Make $project writable, or name an interpreter in PGVIGIL_PYTHON."
        touch "$made"
        quietly "$python" -I -m venv --without-pip "$venv"
    fi
    venv_works || fail "$venv has no Python 3.11 or newer that runs." "Remove it, then try again."
    rm -f "$venv"/pgvigil-{run,test}
    if ! "$venv/bin/python" -I -m pip --version >/dev/null 2>&1; then
        need_ensurepip "$venv/bin/python"
        quietly "$venv/bin/python" -I -m ensurepip
    fi
    counting "$venv/bin/python" -I -m pip install --disable-pip-version-check --no-input --require-hashes --only-binary :all: \
        -r "$project/requirements/$level.txt"
    # What installed is not kept: nobody would update it.
    [[ ! -e $made ]] || quietly "$venv/bin/python" -I -m pip uninstall --disable-pip-version-check --yes pip setuptools
    stamp "$level" >"$venv/pgvigil-$level"
    for name in "${!PGVIGIL_ARGUMENT_@}"; do export "${name?}"; done
}

# In PYTHONPATH a colon ends a directory, and the rest would be a path relative to the caller's working directory.
[[ $project != *:* ]] || fail "$project has a colon in its path, which Python cannot look for modules in." "Move the checkout."
level=$1
shift
python=${PGVIGIL_PYTHON:-$venv/bin/python}
if [[ -z ${PGVIGIL_PYTHON:-} ]]; then
    check_owner
    if ! is_ready "$level"; then
        exec {lock}<"$project" # the directory itself: no lock file is left in the checkout
        flock "$lock"
        is_ready "$level" || install "$level"
        exec {lock}<&-
    fi
fi
export PYTHONPATH=$project/src
exec "$python" -P "$@"
