"""``install-node.sh`` and ``remove-node.sh``: in a tree of their own, killed at any point, and on this very machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from imagedist.config import AgentConfig, ProxyConfig, SeederConfig, load

DEPLOY = Path(__file__).parents[2] / "deploy"
SITE = ("--proxy", "http://10.0.0.5:5001", "--proxy", "http://10.0.0.6:5001", "--seeder", "http://10.0.0.5:5002")

pytestmark = [pytest.mark.root, pytest.mark.package("systemd")]


class Tree:
    """A machine's root, with imagedist in an environment of its own and two runtimes configured by their owner."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.programs = path.parent / "programs"
        self.programs.mkdir()
        program = path / "opt/imagedist/bin/imagedist"
        for directory in ("usr/bin", "var/lib", "etc/containers", "etc/docker", "opt/imagedist/bin"):
            (path / directory).mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m imagedist "$@"\n')
        program.chmod(0o755)
        (path / "etc/docker/daemon.json").write_text('{"log-level": "warn"}\n')
        (path / "etc/containers/storage.conf").write_text('# mine\n[storage]\ndriver = "overlay"\n')

    def install(self, *options: str) -> CompletedProcess[str]:
        return self.run("install-node.sh", "--venv", "/opt/imagedist", *SITE, *options)

    def remove(self, *options: str) -> CompletedProcess[str]:
        return self.run("remove-node.sh", *options)

    def run(self, script: str, *options: str) -> CompletedProcess[str]:
        return subprocess.run(
            ["sh", DEPLOY / script, "--root", self.path, *options],
            env={**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )

    def kill_at(self, program: str, call: int) -> None:
        """The script that calls this program for the so manieth time is killed instead."""
        real, count = shutil.which(program), self.programs / f"{program}.count"
        wrapper = self.programs / program
        wrapper.write_text(
            f'#!/bin/sh\necho x >>{count}\n[ "$(wc -l <{count})" != {call} ] || kill -9 $PPID\nexec {real} "$@"\n'
        )
        wrapper.chmod(0o755)

    def spare(self) -> None:
        for path in self.programs.iterdir():
            path.unlink()

    def seen(self) -> dict[str, str]:
        """Every path with what it is."""
        return {
            str(path.relative_to(self.path)): os.readlink(path)
            if path.is_symlink()
            else f"{path.stat().st_mode:o} {hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ''}"
            for path in self.path.rglob("*")
        }


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "root")


def good(done: CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.package("docker.io", "podman")
def test_a_host_is_laid_out_once_with_its_runtimes_and_taken_off_without_a_trace(tree: Tree) -> None:
    before = tree.seen()
    good(tree.install("--site", "--runtimes", "docker podman", "--dry-run"))
    assert tree.seen() == before

    good(tree.install("--site", "--runtimes", "docker podman"))
    etc = tree.path / "etc"
    agent = load(etc / "imagedist/agent.toml", AgentConfig).agent
    assert agent.site_proxies == ("http://10.0.0.5:5001", "http://10.0.0.6:5001")
    assert agent.site_seeders == ("http://10.0.0.5:5002",)
    load(etc / "imagedist/proxy.toml", ProxyConfig)
    load(etc / "imagedist/seeder.toml", SeederConfig)
    assert (tree.path / "usr/bin/imagedist-proxy").readlink() == Path("/opt/imagedist/bin/imagedist-proxy")
    enabled = {path.name for path in etc.glob("systemd/system/*.wants/*")}
    assert {"imagedist-agent.service", "imagedist-snapshotter.socket", "imagedist-seeder.service"} < enabled
    assert "imagedist-preheat@base.timer" in enabled
    assert "127.0.0.1:5050" in (etc / "docker/daemon.json").read_text()

    laid_out = tree.seen()
    assert "wrote" not in good(tree.install("--site", "--runtimes", "docker podman"))
    assert tree.seen() == laid_out, "again nothing changes"

    (tree.path / "var/lib/imagedist/blobs").mkdir()
    good(tree.remove("--dry-run", "--purge"))
    assert set(laid_out) < set(tree.seen())
    assert "kept" in good(tree.remove())
    kept = {path: what for path, what in tree.seen().items() if not path.startswith(("etc/imagedist", "var/lib/imag"))}
    assert kept == before, "the runtimes' files are their owner's again"
    assert (etc / "imagedist/agent.toml").exists()
    assert (tree.path / "var/lib/imagedist/blobs").exists()

    good(tree.install("--runtimes", "none"))
    good(tree.remove("--purge"))
    assert tree.seen() == before
    assert "nothing is laid out" in good(tree.remove())


@pytest.mark.parametrize("call", [1, 2, 5])
def test_killed_at_any_file_an_installation_is_finished_by_the_next_or_taken_off(tree: Tree, call: int) -> None:
    before = tree.seen()
    tree.kill_at("mv", call)
    assert tree.install("--runtimes", "none").returncode != 0
    tree.spare()
    good(tree.install("--runtimes", "none"))
    finished = tree.seen()
    assert not any(path.endswith("-new") for path in finished)
    good(tree.remove("--purge"))
    assert tree.seen() == before

    tree.kill_at("mv", call)
    assert tree.install("--runtimes", "none").returncode != 0
    tree.spare()
    good(tree.remove("--purge"))
    assert tree.seen() == before


@pytest.mark.package("podman")
def test_a_killed_removal_is_finished_by_the_next(tree: Tree) -> None:
    before = tree.seen()
    good(tree.install("--runtimes", "podman"))
    tree.kill_at("rm", 3)
    assert tree.remove("--purge").returncode != 0
    tree.spare()
    good(tree.remove("--purge"))
    assert tree.seen() == before


@pytest.mark.package("docker.io")
def test_what_the_operator_wrote_stays_his(tree: Tree) -> None:
    (tree.path / "etc/imagedist").mkdir()
    mine = (DEPLOY / "etc/agent.toml").read_text().replace("50GiB", "5GiB")
    (tree.path / "etc/imagedist/agent.toml").write_text(mine)
    good(tree.install("--runtimes", "docker"))
    assert (tree.path / "etc/imagedist/agent.toml").read_text() == mine
    daemon = tree.path / "etc/docker/daemon.json"
    daemon.write_text(daemon.read_text().replace("warn", "info"))

    refused = tree.remove()
    assert refused.returncode == 1
    assert "was changed since --apply" in refused.stderr
    assert (tree.path / "usr/bin/imagedist").is_symlink(), "nothing was taken off"
    assert tree.remove("--force").returncode == 0
    assert '"warn"' in daemon.read_text()


@pytest.mark.parametrize(
    ("script", "options", "says"),
    [
        ("install-node.sh", ["--frob"], "unknown option --frob; see --help"),
        ("install-node.sh", ["--venv"], "--venv needs a value"),
        ("install-node.sh", ["--proxy", 'http://x"; rm', "--venv", "/x"], "a URL is http://HOST:PORT"),
        ("install-node.sh", ["--config", "/dev/null/x"], "cannot read /dev/null/x"),
        ("remove-node.sh", ["--frob"], "unknown option --frob; see --help"),
    ],
)
def test_wrong_usage_is_said_and_changes_nothing(tree: Tree, script: str, options: list[str], says: str) -> None:
    before = tree.seen()
    done = tree.run(script, *options)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert tree.seen() == before


@pytest.mark.parametrize("script", ["install-node.sh", "remove-node.sh"])
def test_help_names_every_option(tree: Tree, script: str) -> None:
    shown = good(tree.run(script, "--help"))
    text = (DEPLOY / script).read_text()
    options = {
        line.strip().split(")")[0] for line in text.splitlines() if line.strip().startswith("--") and ")" in line
    }
    assert options
    assert all(option in shown for option in options), options


@pytest.mark.package("shellcheck")
def test_shellcheck_finds_nothing() -> None:
    scripts = [*sorted(DEPLOY.glob("*-node.sh")), DEPLOY / "peers.sh"]
    done = subprocess.run(["shellcheck", "--shell=sh", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


_HERE = """\
set -e
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" none "$1/root"
for each in proc dev sys; do mount --rbind "/$each" "$1/root/$each"; done
mount --bind "$2" "$1/root/$2"
chroot "$1/root" sh "$2/deploy/install-node.sh" $3 --proxy http://10.0.0.5:5001 --seeder http://10.0.0.5:5002 \
    --runtimes "docker podman"
chroot "$1/root" imagedist --version
chroot "$1/root" systemctl --root / is-enabled imagedist-agent.service
chroot "$1/root" sh "$2/deploy/remove-node.sh" --purge
echo left:
cd "$1/upper"
find . -type f
"""


def _on_this_machine(directory: Path, *options: str) -> str:
    """Both scripts on a copy of this machine that is gone afterwards: what they print, and the files they leave."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _HERE, "sh", directory, DEPLOY.parent, " ".join(options)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.package("docker.io", "podman")
def test_on_this_machine_nothing_is_left_behind(tmp_path: Path) -> None:
    printed = _on_this_machine(tmp_path, "--venv", sys.prefix)
    assert "imagedist 0." in printed
    assert "\nenabled\n" in printed
    assert printed.split("left:\n")[1] == ""


@pytest.mark.package("docker.io", "podman")
@pytest.mark.prove
@pytest.mark.timeout(400)
def test_on_this_machine_with_an_environment_made_from_the_lock(tmp_path: Path) -> None:
    printed = _on_this_machine(tmp_path)
    assert "imagedist 0." in printed
    assert not [path for path in printed.split("left:\n")[1].splitlines() if "imagedist" in path]


def test_what_is_already_there_where_imagedist_would_go_is_left_alone() -> None:
    """A checkout: what is laid out there goes with ``remove-node.sh``."""
    script = 'mount -t tmpfs none /opt; mkdir /opt/imagedist; touch /opt/imagedist/mine; exec sh "$1" --dry-run'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", DEPLOY / "install-node.sh"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "/opt/imagedist is here already, and somebody else's" in done.stderr
