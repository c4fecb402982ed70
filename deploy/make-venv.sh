#!/bin/sh
# Makes a virtual environment and installs into it with the pinned versions of constraints.txt.
#   deploy/make-venv.sh FOLDER 'WHAT TO INSTALL'
# The image's Dockerfile, the Makefile and CI all install by this script.
# PYTHON names an interpreter; without it the first of the usual names that is new enough is taken.
# CONSTRAINTS names another file of versions.
set -eu

folder=$1
what=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

new_enough() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" && echo "$PYTHON" && return
        echo "PYTHON=$PYTHON is not a Python 3.11 or newer with venv and ensurepip." >&2
        return 1
    fi
    for name in python3 python3.13 python3.12 python3.11 python; do
        new_enough "$name" && command -v "$name" && return
    done
    echo "No Python 3.11 or newer with venv was found (on Debian: apt install python3 python3-venv)." >&2
    echo "Install one, or name it: PYTHON=/path/to/python3.12" >&2
    return 1
}

python=$(find_python)
echo "Making $folder with $("$python" --version); a minute the first time." >&2
"$python" -m venv --clear "$folder"
# shellcheck disable=SC2086  # what to install may be several words
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c "${CONSTRAINTS:-$here/constraints.txt}" $what
