#!/bin/sh
# Takes off what deploy/install-node.sh has laid out; see --help.
set -eu

usage() {
    cat <<'END'
remove-node.sh [OPTION…]: gives the runtimes their configuration back, stops imagedist and takes off what install-node.sh laid out.

  --purge     configuration and data as well: /etc/imagedist, blobs, unpacked images; without it these stay
  --restart   restart the runtimes, which then use their former configuration; else it is said which
  --force     even if files of runtimes were changed since (they are put beside), or images are in use (with --purge)
  --root DIR  another tree than /
  --dry-run   say what would be done, and do nothing
  --help      this

Again it finishes what was interrupted. Where nothing is laid out it does nothing. Exit codes: 0 done, 1 failed, 2 usage.
END
}

fail() { echo "remove-node.sh: $1" >&2; exit "${2:-1}"; }

root='' purge='' restart='' force='' dry=''
while [ $# -gt 0 ]; do
    case $1 in
    --root) [ -n "${2:-}" ] || fail "--root needs a value; see --help" 2; root=${2%/}; shift ;;
    --purge) purge=yes ;;
    --restart) restart=--restart ;;
    --force) force=--force ;;
    --dry-run) dry=yes ;;
    --help) usage; exit 0 ;;
    *) fail "unknown option $1; see --help" 2 ;;
    esac
    shift
done
[ -z "$root" ] || [ -d "$root" ] || fail "$root is no directory" 2
[ -n "$dry" ] || [ "$(id -u)" = 0 ] || fail "run me as root, or with --dry-run" 2

state=$root/var/lib/imagedist
layout=$state/layout

run() { if [ -n "$dry" ]; then echo "would run: $*"; else "$@"; fi; }
things() { [ ! -e "$layout" ] || sed -n "s/^$1 //p" "$layout"; }

if [ ! -e "$layout" ] && { [ -z "$purge" ] || [ ! -e "$state" ]; }; then
    echo "nothing is laid out in ${root:-/}"
    exit 0
fi
if [ -z "$dry" ]; then
    exec 9>"$state/.layout.lock"
    flock -w 20 9 || fail "another install or removal is at work here"
fi
if [ -n "$purge" ] && [ -z "$force" ]; then
    # A container whose layers go, dies; and rm must not walk into what is mounted.
    used=$(grep -F -e " $state/" -e "=$state/" -e ":$state/" /proc/mounts | grep -v " $state/ramdisk " | head -n 1 || true)
    [ -z "$used" ] || fail "$state is in use ($used): stop what uses its images, or --force"
fi

# 1. the runtimes first: one that is pointed at a snapshotter which is gone can start nothing
program=$root/usr/bin/imagedist
target=$(readlink "$program" || true)
[ -z "$target" ] || program=$root$target
if [ -e "$state/runtimes.json" ]; then
    [ -x "$program" ] || fail "$program is gone: it is needed to give the runtimes their configuration back"
    # shellcheck disable=SC2086  # each is one word or none
    run "$program" runtimes --root "${root:-/}" --undo $force $restart ||
        fail "the runtimes' configuration is not given back, so nothing was taken off: see above"
fi

# 2. what runs
for unit in $(things unit); do
    systemctl --quiet --root "${root:-/}" is-enabled "$unit" >/dev/null 2>&1 || continue  # an interrupted run did it
    if [ -z "$root" ] && [ -d /run/systemd/system ]; then
        run systemctl --quiet disable --now "$unit" || true
    else
        run systemctl --quiet --root "${root:-/}" disable "$unit" || true
    fi
done
if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    run systemctl stop imagedist-agent.service imagedist-snapshotter.service || true
    ! mountpoint -q /run/imagedist/ramdisk || run umount /run/imagedist/ramdisk
    run rm -rf --one-file-system /run/imagedist /run/imagedist-proxy
fi

# 3. what was laid out; what somebody put beside stays, and so does its directory
remove() { if [ -e "$root$1" ] || [ -L "$root$1" ]; then run rm -f "$root$1"; fi; }
for kind in file link ${purge:+config}; do
    for path in $(things "$kind"); do
        remove "$path"
        remove "$path.imagedist-new"
    done
done
for path in $(things tree); do [ ! -e "$root$path" ] || run rm -rf --one-file-system "$root$path"; done
if [ -n "$purge" ]; then
    [ ! -e "$root/etc/imagedist" ] || run rm -rf --one-file-system "$root/etc/imagedist"
fi
for path in $(things directory | sort -r); do
    [ ! -d "$root$path" ] || [ -n "$dry" ] || rmdir --ignore-fail-on-non-empty "$root$path"
done
[ -n "$root" ] || [ ! -d /run/systemd/system ] || run systemctl daemon-reload

# 4. the list last: until now a second run would go on from it
[ -z "$purge" ] || run rm -rf --one-file-system "$state"
if [ -z "$purge" ]; then
    run rm -f "$layout" "$state/.layout.lock"
    [ -n "$dry" ] || rmdir --ignore-fail-on-non-empty "$state"
    # what is left is configuration and data: said, not lost
    for path in "$root/etc/imagedist" "$state"; do
        [ ! -e "$path" ] || echo "kept $path; --purge removes it"
    done
fi
