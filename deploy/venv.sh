#!/bin/sh
# Makes the virtual environment with the locked dependencies: deploy/venv.sh PYTHON DIRECTORY
set -eu
python=$1
venv=$2

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "imagedist needs Python 3.11 or later; $python is $("$python" --version 2>&1). Try: make PYTHON=python3.12" >&2
    exit 1
}
# Debian splits venv off; without it ensurepip is missing.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing python3-venv"
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy python3-venv; } >/dev/null
    else
        echo "$python has no venv module; as root: apt-get install python3-venv" >&2
        exit 1
    fi
fi
echo "setting up $venv (once, about half a minute)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
# The build back end is locked too, so nothing is resolved at install time.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
"$venv/bin/python" -c 'import imagedist.unpack._ordinary' 2>/dev/null ||
    echo "without a C compiler: unpacking takes more CPU. For less: install gcc and python3-dev, then make clean setup"
