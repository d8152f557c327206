#!/bin/sh
# Installs the Debian packages that the tests with real clients need. Quick when all of them are there.
set -eu

packages="docker-registry skopeo buildah podman docker.io containerd crun pigz curl uidmap strace umoci
    runc golang-github-containers-common ca-certificates e2fsprogs iproute2 iptables util-linux
    nginx-light apache2-utils openssl redis-server shellcheck postgresql systemd"

is_installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

if ! command -v apt-get >/dev/null; then
    echo "packages.sh: this machine has no apt-get; install by hand:" $packages >&2
    exit 1
fi

missing=""
for package in $packages; do
    is_installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "packages.sh: run me as root (sudo $0) to install:$missing" >&2
    exit 1
fi

# The packages start a registry on port 5000 and a Docker daemon when they are installed; the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
install() {
    # shellcheck disable=SC2086  # a list of words
    apt-get install --yes --quiet --no-install-recommends $missing </dev/null
}
if ! install; then
    echo "packages.sh: trying again with fresh package lists" >&2
    apt-get update --quiet
    install || { echo "packages.sh: could not install:$missing" >&2; exit 1; }
fi
