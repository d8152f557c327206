#!/bin/sh
# Fetches newer container runtimes than this Debian's for the tests, with the libraries they need: trixie's containerd
# 1.7, Docker 26 and podman 5.4, forky's containerd 2 and Docker 28. They are unpacked, not installed: this machine's
# packages and its apt sources stay as they are. apt checks the signatures by Debian's keyring. Some fifteen seconds;
# nothing to do when all is there.
#
#     newer-runtimes.sh [DIRECTORY]       default: build/debian. DIRECTORY/SUITE/usr is to be laid over /usr
#
# DEBIAN_MIRROR names another mirror. A suite that cannot be had leaves DIRECTORY/SUITE.failed, which says why: the tests
# that need it fail with that, or are left out.
set -eu

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
directory=${1:-$(dirname "$0")/../build/debian}
mkdir -p "$directory"
directory=$(cd "$directory" && pwd)

# fetch SUITE PACKAGE...: with all they depend on.
fetch() (
    suite=$1
    shift
    [ "$(cat "$directory/$suite/packages" 2>/dev/null)" != "$*" ] || exit 0
    work=$(mktemp -d "$directory/.$suite-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' INT TERM
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/root"
    : >"$work/status"
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$work/sources.list"
    cd "$work"
    apt() {
        apt-get --quiet --quiet -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
            -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" \
            -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=2 -o Debug::NoLocking=1 \
            -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o APT::Update::Error-Mode=any "$@"
    }
    tries=3 # a mirror may be renewing itself
    until { apt update && apt install --download-only --yes --no-install-recommends "$@"; } >"$work/log" 2>&1; do
        tries=$((tries - 1))
        if [ "$tries" = 0 ]; then
            { echo "$mirror gave no $* of Debian $suite:"; tail -n 5 "$work/log"; } >"$directory/$suite.failed"
            cat "$directory/$suite.failed" >&2
            exit 1
        fi
        sleep 3
    done
    for package in cache/archives/*.deb; do
        dpkg-deb --extract "$package" root
    done
    echo "$*" >root/packages
    rm -rf "${directory:?}/$suite"
    mv root "$directory/$suite"
    rm -f "$directory/$suite.failed"
)

fetch trixie containerd docker.io docker-cli docker-buildx podman runc crun &
trixie=$!
status=0
fetch forky containerd docker.io docker-cli docker-buildx runc || status=1
wait "$trixie" || status=1
exit "$status"
