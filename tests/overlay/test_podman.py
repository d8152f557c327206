"""Podman uses the store in place, as an additional image store."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.errors import InputError
from imagedist.overlay.store import OverlayStore
from tests.support import layers, unpacking
from tests.support.layers import Member, directory, file, hardlink, symlink, whiteout

pytestmark = pytest.mark.e2e("podman", "crun")
NAME = "registry.example/team/app:1"
SHELL = "/bin/sh"


def shell_with_libraries() -> list[Member]:
    """This machine's shell as a base layer, in a merged /usr."""
    wanted = [SHELL, *(word for word in _ldd(SHELL).split() if word.startswith("/"))]
    members = [directory("usr"), *(directory(f"usr/{name}") for name in ("bin", "lib", "lib64"))]
    members += [symlink(name, f"usr/{name}") for name in ("bin", "lib", "lib64")]
    for path in dict.fromkeys(wanted):
        members.append(file(f"usr{path.removeprefix('/usr')}", Path(path).read_bytes(), mode=0o755))
    return members


def _ldd(path: str) -> str:
    return subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Podman takes no run root longer than 50 characters."""
    with tempfile.TemporaryDirectory(prefix="podman", dir="/tmp") as path:
        yield Path(path)


def podman(scratch: Path, store: Path, *arguments: str) -> str:
    """Runs podman with its own empty store; crun refuses the hybrid cgroups of some machines, so those go first."""
    options = ["--root", str(scratch / "p"), "--runroot", str(scratch / "r"), "--storage-driver", "overlay"]
    command = ["podman", *options, "--storage-opt", f"additionalimagestore={store}", *arguments]
    script = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *command], capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


RUN = ["run", "--cgroups=disabled", "--network=none", "--ulimit=nofile=10000:10000", "--ulimit=nproc=1000:1000"]


def test_podman_lists_the_image_read_only_runs_it_and_keeps_it_from_removal(scratch: Path) -> None:
    tars = [
        layers.tar([*shell_with_libraries(), directory("etc"), file("etc/gone"), file("etc/motd", b"hello\n")]),
        layers.tar([whiteout("etc/gone"), hardlink("etc/linked", "etc/motd"), file("bin/note", b"through /usr\n")]),
    ]
    store = OverlayStore(scratch / "store", used_by=[scratch / "p"])
    unpacking.put(store, layers.image(tars, NAME), tars, [NAME])

    listed = podman(scratch, store.root, "images", "--format", "{{.Repository}}:{{.Tag}} {{.ReadOnly}}")
    assert listed.split() == [NAME, "true"]
    said = podman(
        scratch, store.root, *RUN, NAME, SHELL, "-c", "read x < /etc/linked; echo $x; read y < /bin/note; echo $y"
    )
    assert said == "hello\nthrough /usr\n"
    with pytest.raises(InputError, match="in use"):
        store.remove(NAME)
    podman(scratch, store.root, "rm", "--all")
    assert store.remove(NAME) is not None


def test_podman_puts_the_layers_together_again_to_the_byte(scratch: Path) -> None:
    """``podman save`` reads the tar-split files, and checks every CRC and the diff ID."""
    tars = [layers.tar([directory("d"), file("d/f", b"x" * 5000)]), layers.tar([file("d/" + "n" * 150, b"y")])]
    store = OverlayStore(scratch / "store")
    built = layers.image(tars, NAME)
    unpacking.put(store, built, tars, [NAME])
    podman(scratch, store.root, "save", "--format", "docker-dir", "-o", str(scratch / "saved"), NAME)
    for layer, tar in zip(built.image.layers, tars, strict=True):
        assert (scratch / "saved" / layer.diff_id.hex).read_bytes() == tar


def test_podman_saves_files_that_came_through_a_lower_symlink_or_a_climbing_name(scratch: Path) -> None:
    tars = [
        layers.tar([directory("usr"), directory("usr/bin"), symlink("bin", "usr/bin")]),
        layers.tar([file("bin/note", b"x" * 5000), file("../../etc/odd", b"y" * 5000)]),
    ]
    store = OverlayStore(scratch / "store")
    built = layers.image(tars, NAME)
    unpacking.put(store, built, tars, [NAME])
    podman(scratch, store.root, "save", "--format", "docker-dir", "-o", str(scratch / "saved"), NAME)
    assert (scratch / "saved" / built.image.layers[1].diff_id.hex).read_bytes() == tars[1]


def test_image_of_two_names_is_used_by_each_and_stays_while_podman_needs_it(scratch: Path) -> None:
    second = "registry.example/team/other:2"
    tars = [layers.tar(shell_with_libraries())]
    store = OverlayStore(scratch / "store", used_by=[scratch / "p"])
    built = layers.image(tars, NAME)
    for name in (NAME, second):
        unpacking.put(store, built, tars, [name])
    assert podman(scratch, store.root, *RUN, "--name=kept", second, SHELL, "-c", "echo here") == "here\n"
    assert store.remove(second) is None
    with pytest.raises(InputError, match="container"):
        store.remove(NAME)
    assert podman(scratch, store.root, "start", "--attach", "kept") == "here\n"
    podman(scratch, store.root, "rm", "kept")
    podman(scratch, store.root, "tag", NAME, "localhost/own:1")
    with pytest.raises(InputError, match="image localhost/own:1"):
        store.remove(NAME)
    podman(scratch, store.root, "untag", "localhost/own:1")
    podman(scratch, store.root, "images")
