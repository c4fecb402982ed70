#!/bin/sh
# Creates a virtual environment and installs packages with the versions pinned in constraints.txt.
#   deploy/make-venv.sh FOLDER 'REQUIREMENTS'
# The Dockerfile, the Makefile and CI install with this script.
# PYTHON names the interpreter; the default is the first suitable one on the PATH.
# CONSTRAINTS names another constraints file.
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
        echo "PYTHON=$PYTHON is not Python 3.11 or newer with venv and ensurepip." >&2
        return 1
    fi
    for name in python3 python3.13 python3.12 python3.11 python; do
        new_enough "$name" && command -v "$name" && return
    done
    echo "Python 3.11 or newer with venv was not found (on Debian: apt install python3 python3-venv)." >&2
    echo "Install it, or name it: PYTHON=/path/to/python3.12" >&2
    return 1
}

python=$(find_python)
echo "Creating $folder with $("$python" --version); this takes about a minute the first time." >&2
"$python" -m venv --clear "$folder"
# shellcheck disable=SC2086  # REQUIREMENTS may be several words
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c "${CONSTRAINTS:-$here/constraints.txt}" $what
