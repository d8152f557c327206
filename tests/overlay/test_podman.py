"""Podman uses the store in place, as an additional image store."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket as sockets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.errors import InputError
from imagedist.overlay.store import OverlayStore
from tests.support import layers, unpacking
from tests.support.layers import Member, directory, file, hardlink, symlink, whiteout
from tests.support.sparse import FORMS

pytestmark = pytest.mark.e2e("podman", "crun")
NAME = "registry.example/team/app:1"
SHELL = "/bin/sh"
_PRIVATE = """
umount /sys/fs/cgroup/unified 2>/dev/null
mkdir -p "$1/run" && mount --bind "$1/run" /run || exit
echo '[engine]\nlock_type = "file"' >"$1/containers.conf" && export CONTAINERS_CONF="$1/containers.conf"
shift
exec "$@"
"""


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


def podman_command(scratch: Path, store: Path, *arguments: str) -> list[str]:
    """podman with its own empty store, locks and /run: ``system reset`` removes /run/libpod, whoever else uses it.

    crun refuses the hybrid cgroups of some machines, so those go first.
    """
    options = ["--root", str(scratch / "p"), "--runroot", str(scratch / "r"), "--storage-driver", "overlay"]
    command = ["podman", *options, "--storage-opt", f"additionalimagestore={store}", *arguments]
    return ["unshare", "-m", "sh", "-c", _PRIVATE, "sh", str(scratch), *command]


def podman(scratch: Path, store: Path, *arguments: str) -> str:
    result = subprocess.run(podman_command(scratch, store, *arguments), capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(scratch: Path, store: Path, *arguments: str) -> str:
    """What podman says when it does not do something."""
    result = subprocess.run(podman_command(scratch, store, *arguments), capture_output=True, text=True, timeout=100)
    assert result.returncode != 0, result.stdout
    return result.stderr


def state(store: Path) -> list[tuple[str, int]]:
    """Every file but locks, with its time."""
    paths = (path for path in store.rglob("*") if "lock" not in path.name)
    return sorted((str(path), path.lstat().st_mtime_ns) for path in paths)


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
    sparse_files = [layers.sparse_file(form, form, 90_000, [(4096, 5), (8192, 600)], b"s" * 605) for form in FORMS]
    tars.append(layers.tar([*sparse_files, file("d/after", b"z")]))
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


def test_podman_cannot_remove_our_images_only_its_own_records_of_them(scratch: Path) -> None:
    """The table in docs/store.md says so."""
    second = "registry.example/team/other:2"
    tars = [layers.tar(shell_with_libraries())]
    store = OverlayStore(scratch / "store", used_by=[scratch / "p"])
    built = layers.image(tars, NAME)
    for name in (NAME, second):
        unpacking.put(store, built, tars, [name])
    before = state(store.root)
    for arguments in ([NAME], [second, "--force"], [built.image.id.hex]):
        assert "cannot remove read-only image" in refused(scratch, store.root, "rmi", *arguments)
    podman(scratch, store.root, "rmi", "--all", "--force")
    podman(scratch, store.root, "image", "prune", "--all", "--force")

    podman(scratch, store.root, *RUN, "--name=kept", NAME, SHELL, "-c", "echo here")
    assert refused(scratch, store.root, "rmi", NAME)
    podman(scratch, store.root, "rm", "kept")

    podman(scratch, store.root, "tag", NAME, "localhost/own:1")
    assert podman(scratch, store.root, "rmi", "localhost/own:1").split() == ["Untagged:", "localhost/own:1"]
    podman(scratch, store.root, "system", "prune", "--all", "--force")
    podman(scratch, store.root, "system", "reset", "--force")

    assert state(store.root) == before
    listed = podman(scratch, store.root, "images", "--format", "{{.Repository}}:{{.Tag}} {{.ReadOnly}}")
    assert sorted(listed.split()) == sorted([NAME, "true", second, "true"])
    assert store.remove(NAME) is None
    assert store.remove(second) is not None


def test_podman_knows_an_image_by_every_tag_and_by_its_digest(scratch: Path) -> None:
    tars = [layers.tar(shell_with_libraries())]
    store = OverlayStore(scratch / "store")
    built = layers.image(tars, NAME)
    by_digest = f"registry.example/team/app@{built.image.manifest_digest}"
    unpacking.put(store, built, tars, [by_digest])
    assert podman(scratch, store.root, *RUN, "--rm", by_digest, SHELL, "-c", "echo here") == "here\n"
    unpacking.put(store, built, tars, [NAME])
    unpacking.put(store, built, tars, ["registry.example/team/other:2"])
    shown = podman(scratch, store.root, "image", "inspect", by_digest, "--format", "{{.Id}} {{.RepoTags}}")
    assert shown.strip() == f"{built.image.id.hex} [registry.example/team/other:2 {NAME}]"
    with pytest.raises(InputError, match="3 names"):
        store.remove(by_digest.replace("team/app", "team/other"))
    assert store.remove(by_digest) is None
    assert store.find(by_digest).id == built.image.id.hex  # by the tag of the same repository


def test_a_podman_that_runs_already_sees_what_is_pulled_and_removed(scratch: Path) -> None:
    """containers/storage loads the lists again when the token in their lock files has changed."""
    store = OverlayStore(scratch / "store")
    tars = [layers.tar([directory("d")]), layers.tar([file("d/f")])]
    first, second = layers.image(tars[:1], NAME), layers.image(tars, NAME)
    unpacking.put(store, first, tars[:1], [NAME])
    socket = scratch / "api.sock"
    command = podman_command(scratch, store.root, "system", "service", "--time=0", f"unix://{socket}")
    service = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    try:
        wait_for(socket, service)
        assert images_of_service(socket) == {first.image.id.hex}
        unpacking.put(store, second, tars, ["registry.example/team/other:2"])
        assert images_of_service(socket) == {first.image.id.hex, second.image.id.hex}
        store.remove(NAME)
        assert images_of_service(socket) == {second.image.id.hex}
    finally:
        service.terminate()
        service.wait()


def wait_for(socket: Path, service: subprocess.Popen[str]) -> None:
    """Until it listens, or has ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and service.poll() is None:
        with contextlib.suppress(OSError), sockets.socket(sockets.AF_UNIX) as probe:
            probe.connect(str(socket))
            return
        time.sleep(0.02)
    raise AssertionError("podman's service did not start")


def images_of_service(socket: Path) -> set[str]:
    connection = http.client.HTTPConnection("podman")
    connection.sock = sockets.socket(sockets.AF_UNIX)
    try:
        connection.sock.connect(str(socket))
        connection.request("GET", "/v4.0.0/libpod/images/json")
        return {image["Id"] for image in json.loads(connection.getresponse().read())}
    finally:
        connection.close()
