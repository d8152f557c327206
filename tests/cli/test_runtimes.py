"""`imagedist runtimes`: what it shows, writes and takes back, and one clear line for everything it cannot do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from imagedist.cli import app
from tests.runtimes.trees import DEBIANS_CONTAINERD, program, put, snapshot


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node with containerd 1.6, as Debian configures it, and podman."""
    programs = tmp_path / "programs"
    programs.mkdir()
    program(programs, "containerd", "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1")
    program(programs, "podman", "podman version 4.3.1")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("IMAGEDIST_SOCKET", raising=False)
    put(tmp_path / "root", "/etc/containerd/config.toml", DEBIANS_CONTAINERD)
    return tmp_path / "root"


def runtimes(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["runtimes", *arguments, "--root", str(root)])


def test_it_shows_what_it_would_write_and_writes_nothing(root: Path) -> None:
    before = snapshot(root)
    done = runtimes(root)
    assert done.exit_code == 0
    assert "containerd / Kubernetes 1.6.20~ds1  (not configured yet)" in done.stdout
    assert '+  snapshotter = "imagedist"' in done.stdout
    assert "then             imagedist runtimes --apply containerd" in done.stdout
    assert snapshot(root) == before


def test_apply_says_what_it_wrote_and_what_to_restart_and_undo_gives_it_back(root: Path) -> None:
    before = snapshot(root / "etc")

    done = runtimes(root, "--apply", "--json")

    told = json.loads(done.stdout)
    assert [Path(one["path"]).name for one in told["written"]] == [
        "io.containerd.snapshotter.v1.imagedist",
        "config.toml",
        "hosts.toml",
        "50-imagedist.conf",
        "storage.conf",
    ]
    assert (told["restart"], told["restarting"]) == (["systemctl restart containerd"], False)
    assert [row["is_configured"] for row in json.loads(runtimes(root, "--json").stdout)] == [True, True]
    assert "nothing to do" in runtimes(root, "--apply").stdout
    assert runtimes(root, "--undo").exit_code == 0
    assert snapshot(root / "etc") == before


def test_what_agent_toml_says_is_written(root: Path) -> None:
    put(
        root,
        "/etc/imagedist/agent.toml",
        '[agent]\nlisten = "127.0.0.1:6060"\nsite_proxies = ["http://10.0.0.5:5001"]\n'
        '[storage]\nroot = "/srv/images"\n[snapshotter]\nsocket = "/run/other.sock"\n',
    )
    assert runtimes(root, "--apply").exit_code == 0
    config = (root / "etc/containerd/config.toml").read_text()
    assert 'address = "/run/other.sock"' in config
    assert "http://127.0.0.1:6060" in (root / "etc/containerd/certs.d/_default/hosts.toml").read_text()
    assert "/srv/images" in (root / "etc/containers/storage.conf").read_text()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (("lxc",), 2, "no runtime 'lxc': expected one of containerd, docker"),
        (("crio", "--apply"), 2, "crio is not on this machine"),
        (("--apply", "--undo"), 2, "give one at a time"),
        (("--restart",), 2, "--restart goes with"),
        (("--apply", "--restart"), 2, "does not go with --root"),
        (("--mirror", "here"), 2, "bad --mirror"),
        (("--registry", "registry.local:5000"), 2, "start the agent first"),
        (("--prove", "--socket", "/nowhere"), 2, "no agent listens at /nowhere"),
        (("--config", "/nowhere"), 2, "cannot read configuration /nowhere"),
    ],
)
def test_wrong_arguments_end_in_one_line(root: Path, arguments: tuple[str, ...], exit_code: int, says: str) -> None:
    done = runtimes(root, *arguments)
    assert (done.exit_code, says in done.stderr) == (exit_code, True), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [("version = ", "config.toml is not TOML"), ("[plugins.cri]\na = 1\n", "config.toml is of version 1")],
)
def test_a_file_that_cannot_be_edited_is_named_and_nothing_is_written(root: Path, text: str, says: str) -> None:
    put(root, "/etc/containerd/config.toml", text)
    before = snapshot(root)

    done = runtimes(root, "--apply")

    assert done.exit_code == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert snapshot(root) == before
    assert f"problem          {root}/etc/containerd/{says}" in runtimes(root).stdout


def test_a_symbolic_link_is_not_followed(root: Path) -> None:
    config = root / "etc/containerd/config.toml"
    config.rename(root / "generated.toml")
    config.symlink_to("/generated.toml")
    done = runtimes(root, "--apply", "containerd")
    assert done.exit_code == 2
    assert "config.toml is a symbolic link to /generated.toml" in done.stderr


@pytest.mark.root
def test_whoever_is_not_root_is_told_before_anything_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        done = CliRunner().invoke(app, ["runtimes", "--undo"])
        os._exit(0 if done.exit_code == 2 and "run it as root" in done.stderr else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_two_containerds_are_not_given_the_same_snapshotter(root: Path) -> None:
    k3s = "/var/lib/rancher/k3s/agent/etc/containerd"
    put(root, f"{k3s}/config.toml", f'version = 3\nimports = ["{k3s}/config-v3.toml.d/*.toml"]\n')

    both = runtimes(root, "--apply")
    assert (both.exit_code, len(both.stderr.splitlines())) == (2, 1)
    assert "containerd and k3s are containerds of their own" in both.stderr

    assert runtimes(root, "--apply", "k3s").exit_code == 0
    assert "our snapshotter serves one" in runtimes(root, "--apply", "containerd").stderr
    assert runtimes(root, "--apply", "podman").exit_code == 0


_READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


@pytest.mark.root
def test_a_read_only_file_system_is_one_line_and_leaves_nothing(root: Path) -> None:
    before = snapshot(root / "etc")
    command = [sys.executable, "-m", "imagedist", "runtimes", "--apply", "containerd", "--root", str(root)]
    inside = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", f"PATH=$PATH:/bin; {_READ_ONLY}", str(root / "etc")]
    done = subprocess.run([*inside, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "config.toml: Read-only file system; is it immutable (lsattr)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert snapshot(root / "etc") == before
    assert {path.name for path in (root / "var/lib").rglob("*") if path.is_file()} == {"runtimes.lock"}
    assert not (root / "var/lib/containerd").exists()
