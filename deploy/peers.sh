#!/bin/sh
# Builds peers and runtimes that no Debian packages, from their modules at the Go proxy, at pinned versions. Go checks
# them by its checksum database, and what they need by their own go.sum. Nothing is installed: the programs come into
# build/peers/bin, where imagedist-bench and the tests find them. Some minutes; nothing to do when all are there.
#
#     peers.sh [-d DIRECTORY] [NAME...]       default: into build/peers; all of the table below
#
# Needs Go 1.26 (or an older one that may fetch it: GOTOOLCHAIN=auto), gcc and zlib1g-dev. GOPROXY and the like are go's.
set -eu

table() {
    cat <<'TABLE'
containerd github.com/containerd/containerd/v2@v2.4.2
crio github.com/cri-o/cri-o@v1.34.0
kraken github.com/uber/kraken@v0.1.4
nerdctl github.com/containerd/nerdctl/v2@v2.2.1
soci github.com/awslabs/soci-snapshotter@v0.16.1 github.com/awslabs/soci-snapshotter/cmd@v0.0.0-20260930233240-61147fe7c929
TABLE
}

# What is built of each, in a directory with its source: $pins are its modules, $work where it happens.
build_containerd() { # one that unpacks layers in parallel: Debian's, up to forky's 2.1, do not
    source_of "$pins" source
    cd source
    for program in containerd ctr; do
        build $program-2 ./cmd/$program "-X github.com/containerd/containerd/v2/version.Version=$(version_of "$pins")"
    done
}

build_crio() { # no libgpgme, libbtrfs, libseccomp; its conmon and crun are Debian's
    source_of "$pins" source
    cd source
    build crio ./cmd/crio "" containers_image_openpgp,containers_image_ostree_stub,exclude_graphdriver_btrfs
    cc -std=c99 -O2 -static -s -o "$work/bin/pinns" pinns/src/*.c
}

build_kraken() { # without its proxy, which takes pushes; its nginx and Redis are Debian's
    source_of "$pins" source
    cd source
    for program in agent build-index origin tracker; do
        build "kraken-$program" "./$program" ""
    done
}

build_nerdctl() {
    source_of "${pins%% *}" source
    cd source
    # Its tests need a module that lies in its repository, and in no archive.
    rm cmd/nerdctl/helpers/testing*.go
    go mod edit -dropreplace=github.com/containerd/nerdctl/mod/tigron@v0.0.0 \
        -droprequire=github.com/containerd/nerdctl/mod/tigron
    build nerdctl ./cmd/nerdctl "-X github.com/containerd/nerdctl/v2/pkg/version.Version=$(version_of "$pins")"
}

build_soci() {
    source_of "${pins%% *}" source
    source_of "${pins##* }" source/cmd # a module beside its library, at the same commit
    cd source/cmd
    build soci-snapshotter-grpc ./soci-snapshotter-grpc \
        "-X github.com/awslabs/soci-snapshotter/version.Version=$(version_of "${pins%% *}")"
}

fail() {
    echo "peers.sh: $*" >&2
    exit 1
}

version_of() {
    echo "${1##*@}"
}

# source_of MODULE@VERSION PLACE: a copy that can be changed.
source_of() {
    told=$(cd "$work" && go mod download -json "$1" 2>&1) ||
        fail "$(go env GOPROXY) gave no $1: $(echo "$told" | sed -n 's/.*"Error": *"\(.*\)",*$/\1/p' | grep . || echo "$told")"
    mkdir -p "$work/$2"
    cp -R "$(echo "$told" | sed -n 's/.*"Dir": *"\(.*\)",*$/\1/p')/." "$work/$2"
    chmod -R u+w "$work/$2"
}

# build PROGRAM PACKAGE LINKER_FLAGS [TAGS]
build() {
    nice go build -mod=mod -buildvcs=false -trimpath -tags "${4:-}" -ldflags "-s -w $3" -o "$work/bin/$1" "$2" ||
        fail "$1 could not be built, see above"
}

# make_peer NAME MODULE...: unless its programs, of these versions, are there.
make_peer() (
    name=$1
    shift
    pins=$*
    [ "$(cat "$directory/$name.built" 2>/dev/null)" != "$pins" ] || exit 0
    echo "peers.sh: building $pins" >&2
    work=$(mktemp -d "$directory/.$name-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' INT TERM
    export GOFLAGS=-mod=mod GOWORK=off
    cd "$work"
    "build_$name"
    mv -f "$work"/bin/* "$directory/bin"
    echo "$pins" >"$directory/$name.built"
)

directory=$(dirname "$0")/../build/peers
if [ "${1:-}" = -d ]; then
    directory=${2:?a directory after -d}
    shift 2
fi
# shellcheck disable=SC2046  # words
[ $# -gt 0 ] || set -- $(table | cut -d ' ' -f 1)
for name; do
    table | grep -q "^$name " || fail "no peer $name: there are $(table | cut -d ' ' -f 1 | paste -sd ' ')"
done
command -v go >/dev/null || fail "no go: install Go 1.26 or newer (https://go.dev/dl)"
mkdir -p "$directory/bin"
directory=$(cd "$directory" && pwd)
for name; do
    # shellcheck disable=SC2046  # words of a row
    make_peer $(table | grep "^$name ")
done
