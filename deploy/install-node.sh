#!/bin/sh
# Lays out a node (with --site, a site's host as well) on a machine with systemd; see --help. deploy/remove-node.sh takes it off again.
set -eu

usage() {
    cat <<'END'
install-node.sh [OPTION…]: makes this machine a node: agent, snapshotter, their configuration, the runtimes'.

  --proxy URL     the site's proxy, as this node reaches it; repeatable
  --seeder URL    the site's seeder; repeatable
  --config FILE   an agent.toml instead of the shipped one
  --token FILE    holds the site token; goes to /etc/imagedist/site.token
  --site          proxy, seeder and the nightly preheat as well
  --runtimes "…"  configure these only (docker containerd podman …; "none"); default: all that are here
  --restart       restart the runtimes that were configured; else it is said which
  --venv DIR      a Python environment that has imagedist; default: one is made at /opt/imagedist
  --root DIR      another tree than /, such as a node's image; it needs --venv, a path within that tree. Nothing is started
  --dry-run       say what would be done, and do nothing
  --help          this

Again it changes nothing that is right, finishes what was interrupted, and brings a newer version. What is in /etc/imagedist already
stays as it is. Everything laid out is in /var/lib/imagedist/layout, for remove-node.sh. Exit codes: 0 done, 1 failed, 2 usage.
END
}

fail() { echo "install-node.sh: $1" >&2; exit "${2:-1}"; }

here=$(cd "$(dirname "$0")" && pwd)
root='' changed='' proxies='' seeders='' config='' token='' is_site='' runtimes='' restart='' venv='' dry=''
need() { if [ -z "${2:-}" ]; then fail "$1 needs a value; see --help" 2; fi; }
while [ $# -gt 0 ]; do
    case $1 in
    --proxy) need "$@"; proxies="$proxies${proxies:+, }\"$2\""; shift ;;
    --seeder) need "$@"; seeders="$seeders${seeders:+, }\"$2\""; shift ;;
    --config) need "$@"; config=$2; shift ;;
    --token) need "$@"; token=$2; shift ;;
    --runtimes) need "$@"; runtimes=$2; shift ;;
    --venv) need "$@"; venv=$2; shift ;;
    --root) need "$@"; root=${2%/}; shift ;;
    --site) is_site=yes ;;
    --restart) restart=--restart ;;
    --dry-run) dry=yes ;;
    --help) usage; exit 0 ;;
    *) fail "unknown option $1; see --help" 2 ;;
    esac
    shift
done
case $proxies$seeders in *[!A-Za-z0-9.:/_,\"\ -]*) fail "a URL is http://HOST:PORT" 2 ;; esac
case $venv in '' | /*) ;; *) fail "--venv $venv is not absolute" 2 ;; esac
[ -z "$config" ] || [ -r "$config" ] || fail "cannot read $config" 2
[ -z "$token" ] || [ -r "$token" ] || fail "cannot read $token" 2
[ -z "$root" ] || [ -d "$root" ] || fail "$root is no directory" 2
[ -z "$root" ] || [ -n "$venv" ] || fail "--root needs --venv: install imagedist into that tree's Python first" 2
[ -n "$dry" ] || [ "$(id -u)" = 0 ] || fail "run me as root, or with --dry-run" 2
command -v systemctl >/dev/null || fail "this machine has no systemd; deploy/compose.yaml and deploy/kubernetes do without"

layout=$root/var/lib/imagedist/layout
state=$root/var/lib/imagedist

run() { if [ -n "$dry" ]; then echo "would run: $*"; else "$@"; fi; }

# Notes a thing before it is there, so that an interrupted run can be taken off as well.
note() { grep -qxF "$1 $2" "$layout" 2>/dev/null || echo "$1 $2" >>"$layout"; }

directory() {
    if [ -d "$root$1" ]; then return; fi
    directory "$(dirname "$1")"
    if [ -n "$dry" ]; then echo "would make $root$1"; return; fi
    note directory "$1"
    mkdir "$root$1"
}

# place FILE PATH MODE KIND: a copy, written aside and renamed.
place() {
    if cmp -s "$1" "$root$2"; then return; fi
    if [ -n "$dry" ]; then echo "would write $root$2"; return; fi
    changed=yes
    note "$4" "$2"
    cp "$1" "$root$2.imagedist-new"
    chmod "$3" "$root$2.imagedist-new"
    mv -f "$root$2.imagedist-new" "$root$2"
    echo "wrote $root$2"
}

configuration() { if [ ! -e "$root$2" ]; then place "$1" "$2" "$3" config; fi; }

if [ -z "$dry" ]; then  # one at a time
    mkdir -p "$state"
    exec 9>"$state/.layout.lock"
    flock -w 20 9 || fail "another install or removal is at work here"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# 1. the programs
if [ -z "$venv" ]; then
    venv=/opt/imagedist
    # A checkout, say: it would go with what remove-node.sh takes off.
    if [ -e $venv ] && [ ! -e $venv/.source ] && ! grep -qxF "tree $venv" "$layout" 2>/dev/null; then
        fail "$venv is here already, and somebody else's: move it, or name an environment that has imagedist with --venv"
    fi
    sources="$here/requirements.lock $here/../pyproject.toml $here/../imagedist $here/../registry_proxy $here/../seeder $here/../bench"
    # shellcheck disable=SC2086  # a list of paths
    version=$(find $sources -type f ! -name '*.pyc' ! -name '*.so' | LC_ALL=C sort | xargs sha256sum | cut -c1-64 | sha256sum)
    if [ "$(cat $venv/.source 2>/dev/null || true)" = "$version" ]; then
        :  # this very version is there
    elif [ -n "$dry" ]; then
        echo "would install $(dirname "$here") into $venv"
    else
        changed=yes
        directory "$(dirname $venv)"
        note tree $venv
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "imagedist needs Python 3.11 or later"
        [ -x $venv/bin/python ] || python3 -m venv $venv || fail "python3 cannot make an environment: apt-get install python3-venv"
        $venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$here/requirements.lock"
        # The build back end is locked too, so nothing is resolved at install time. A copy: building writes beside its source.
        mkdir "$work/source"
        (cd "$here/.." && cp -r pyproject.toml README.md LICENSE imagedist registry_proxy seeder bench "$work/source")
        $venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall "$work/source"
        echo "$version" >$venv/.source
    fi
fi
[ -n "$dry" ] || [ -x "$root$venv/bin/imagedist" ] || fail "$root$venv has no bin/imagedist: install it there first"
directory /usr/bin
for program in imagedist ${is_site:+imagedist-proxy imagedist-seeder}; do
    [ "$(readlink "$root/usr/bin/$program" || true)" = "$venv/bin/$program" ] && continue
    [ ! -e "$root/usr/bin/$program" ] || [ -L "$root/usr/bin/$program" ] || fail "$root/usr/bin/$program is somebody else's: remove it first"
    if [ -n "$dry" ]; then echo "would link $root/usr/bin/$program"; continue; fi
    note link "/usr/bin/$program"
    ln -sfn "$venv/bin/$program" "$root/usr/bin/$program"
done

# 2. configuration, which is the operator's from then on
directory /etc/imagedist
cp "${config:-$here/etc/agent.toml}" "$work/agent.toml"
[ -z "$proxies" ] || sed -i "s|^site_proxies = .*|site_proxies = [$proxies]|" "$work/agent.toml"
[ -z "$seeders" ] || sed -i "s|^site_seeders = .*|site_seeders = [$seeders]|" "$work/agent.toml"
[ -z "$token" ] || grep -q '^site_token_file' "$work/agent.toml" ||
    sed -i 's|^\[agent\]$|&\nsite_token_file = "/etc/imagedist/site.token"|' "$work/agent.toml"
[ -z "$token" ] || configuration "$token" /etc/imagedist/site.token 600
configuration "$work/agent.toml" /etc/imagedist/agent.toml 644
units="imagedist-agent.service imagedist-agent.socket imagedist-snapshotter.service imagedist-snapshotter.socket"
wanted="imagedist-snapshotter.socket imagedist-snapshotter.service imagedist-agent.socket imagedist-agent.service"
services="imagedist-snapshotter.service imagedist-agent.service"
if [ -n "$is_site" ]; then
    for name in proxy seeder; do
        sed 's|^# \(site_token_file = [^ ]*\).*|\1|' "$here/etc/$name.toml" >"$work/$name.toml"
        [ -n "$token" ] || cp "$here/etc/$name.toml" "$work/$name.toml"
        configuration "$work/$name.toml" "/etc/imagedist/$name.toml" 644
    done
    directory /etc/imagedist/preheat.d
    configuration "$here/etc/preheat.d/base.toml" /etc/imagedist/preheat.d/base.toml 644
    units="$units imagedist-proxy.service imagedist-proxy.socket imagedist-seeder.service imagedist-preheat@.service imagedist-preheat@.timer"
    services="$services imagedist-proxy.service imagedist-seeder.service"
    wanted="$wanted imagedist-proxy.socket imagedist-proxy.service imagedist-seeder.service imagedist-preheat@base.timer"
fi

# 3. units, enabled; started where systemd runs
directory /etc/systemd/system
for unit in $units; do place "$here/systemd/$unit" "/etc/systemd/system/$unit" 644 file; done
for unit in $wanted; do
    if systemctl --quiet --root "${root:-/}" is-enabled "$unit" >/dev/null 2>&1; then continue; fi
    [ -n "$dry" ] || note unit "$unit"
    run systemctl --quiet --root "${root:-/}" enable "$unit"
done
if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    run systemctl daemon-reload
    # shellcheck disable=SC2086  # a list of words
    run systemctl start $wanted
    # shellcheck disable=SC2086
    [ -z "$changed" ] || run systemctl try-restart $services
else
    echo "nothing is started: systemd does not run in ${root:-/}"
fi

# 4. the runtimes, whose files are given back by remove-node.sh
if [ "$runtimes" != none ]; then
    if [ -n "$dry" ]; then
        echo "would run: imagedist runtimes --apply $runtimes $restart"
    else
        # shellcheck disable=SC2086  # lists of words
        "$root$venv/bin/imagedist" runtimes --root "${root:-/}" --apply $runtimes $restart ||
            fail "the node is laid out, but its runtimes are not configured: see above, then run me again"
    fi
fi
[ -n "$dry" ] || echo "laid out; \`imagedist doctor\` says whether all is well"
