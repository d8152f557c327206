"""An ordinary user's own store, with real podman beside it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from imagedist import rootless
from tests.overlay.test_podman import RUN, SHELL, shell_with_libraries
from tests.support import layers
from tests.support.layers import character_device, directory, file, hardlink, opaque, whiteout
from tests.support.registry import FaultyRegistry
from tests.support.user import OrdinaryUser, ordinary_user

STORE = ".local/share/imagedist/storage"
BUILT = layers.image(
    [
        [
            *shell_with_libraries(),
            directory("etc"),
            *(file(f"etc/{name}", name.encode()) for name in ("gone", "root")),
            file("etc/user", b"user\n", uid=1000, gid=1000),
            file("etc/nobody", b"x", uid=65534, gid=65534),
            character_device("etc/null", 1, 3),
            directory("cleared"),
            file("cleared/lower"),
            directory("home", uid=33, gid=33),
        ],
        [
            whiteout("etc/gone"),
            opaque("cleared"),
            file("cleared/upper"),
            hardlink("etc/link", "etc/user"),
            file("home/tool", uid=5, gid=6, mode=0o4755),
        ],
    ]
)
OWNERS = {
    "etc/user": "1000:1000 644",
    "etc/link": "1000:1000 644",
    "etc/nobody": "65534:65534 644",
    "etc/root": "0:0 644",
    "home": "33:33 755",
    "home/tool": "5:6 4755",
    "cleared/upper": "0:0 644",
}


@pytest.fixture
def user() -> Iterator[OrdinaryUser]:
    with ordinary_user() as made:
        yield made


@pytest.fixture
async def reference() -> AsyncIterator[str]:
    async with FaultyRegistry() as registry:
        for content in BUILT.blobs.values():
            registry.add_blob(content)
        registry.add_manifest("team/app", "1", BUILT.image.manifest_bytes)
        yield f"{registry.url.removeprefix('http://')}/team/app:1"


async def imagedist(user: OrdinaryUser, *arguments: str, exit_code: int = 0) -> str:
    """Runs it beside the registry in this process; what it said."""
    done = await asyncio.to_thread(user.imagedist, *arguments)
    assert done.returncode == exit_code, done.stderr
    return done.stdout if exit_code == 0 else done.stderr


def ramdisk(user: OrdinaryUser) -> tuple[str, str]:
    """Beside the home, which is in memory and goes with the user."""
    return "--ramdisk", str(user.home / "ramdisk")


async def pull(user: OrdinaryUser, reference: str) -> str:
    options = ("--plain-http", "--no-agent", "--platform", "linux/amd64", *ramdisk(user))
    done = await asyncio.to_thread(user.imagedist, "pull", reference, *options)
    assert done.returncode == 0, done.stderr
    return done.stderr


def podman(user: OrdinaryUser, *arguments: str) -> str:
    options = ["--root", str(user.home / "p"), "--runroot", str(user.home / "r"), "--storage-driver", "overlay"]
    options += ["--storage-opt", f"additionalimagestore={user.home / STORE}"]
    done = user.run("podman", *options, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.root
@pytest.mark.e2e("uidmap", "podman", "crun")
async def test_rootless_podman_runs_an_ordinary_users_image_and_sees_the_right_owners(
    user: OrdinaryUser, reference: str
) -> None:
    assert await pull(user, reference) == ""
    assert json.loads((user.home / STORE / "imagedist/format").read_text())["owners"] == "namespace"

    shown = await imagedist(user, "mount", reference, "--", "stat", "-c", "%n %u:%g %a", *OWNERS)
    assert shown.splitlines() == [f"{path} {owner}" for path, owner in OWNERS.items()]
    listed = (await imagedist(user, "mount", reference, "--", "ls", "etc", "cleared")).split()
    assert listed == ["cleared:", "upper", "etc:", "link", "nobody", "root", "user"]

    assert podman(user, "images", "--format", "{{.Repository}}:{{.Tag}} {{.ReadOnly}}").split() == [reference, "true"]
    script = "read x < /etc/link; echo $x; echo /etc/* /cleared/*"
    said = podman(user, *RUN, "--name=kept", reference, SHELL, "-c", script).splitlines()
    assert said[0] == "user"
    assert "/etc/gone" not in said[1]
    assert said[1].endswith("/cleared/upper")

    used_by = ("--used-by", str(user.home / "p"))
    assert "it is in use, container" in await imagedist(user, "rm", reference, *used_by, exit_code=2)
    podman(user, "rm", "kept")
    assert await imagedist(user, "gc", *used_by, *ramdisk(user)) == "0 bytes freed\n"
    await imagedist(user, "rm", reference, *used_by)
    assert sorted(os.listdir(user.home / STORE / "overlay")) == ["l"]


@pytest.mark.root
@pytest.mark.e2e("uidmap", "podman")
async def test_a_mount_in_podmans_namespace_protects_the_image(user: OrdinaryUser, reference: str) -> None:
    await pull(user, reference)
    assert "run `imagedist mount" in await imagedist(user, "mount", reference, exit_code=2)
    mount = ["podman", "--root", str(user.home / "p"), "--runroot", str(user.home / "r"), "unshare"]
    done = user.run(*mount, *user.command("mount", reference))
    assert done.returncode == 0, done.stderr
    assert "seen by another namespace" in await imagedist(user, "rm", reference, exit_code=2)
    assert user.run(*mount, *user.command("umount", reference)).returncode == 0
    await imagedist(user, "rm", reference)


@pytest.mark.root
@pytest.mark.e2e("uidmap")
async def test_a_user_without_subordinate_ids_gets_his_own_files_and_a_warning(
    user: OrdinaryUser, reference: str
) -> None:
    user.drop_ids()
    warning = await pull(user, reference)
    assert "files will belong to you" in warning
    assert "usermod --add-subuids" in warning
    assert len(warning.splitlines()) == 1
    owners = {path.lstat().st_uid for path in (user.home / STORE / "overlay").rglob("*")}
    assert owners == {user.uid}
    user.add_ids()
    assert await pull(user, reference) == ""  # a store stays of its kind
    assert json.loads((user.home / STORE / "imagedist/format").read_text())["owners"] == "one"
    await imagedist(user, "rm", reference)


@pytest.mark.root
@pytest.mark.e2e("uidmap")
async def test_a_store_of_mapped_owners_says_what_it_needs(user: OrdinaryUser, reference: str) -> None:
    await pull(user, reference)
    user.drop_ids()
    said = await imagedist(user, "rm", reference, exit_code=1)
    assert "has owners in its user's namespace, and you have no ids in /etc/subuid" in said


def test_the_mapping_is_podmans_own_id_then_the_ranges_lowest_first(tmp_path: Path) -> None:
    subuid = tmp_path / "subuid"
    me = os.geteuid()
    subuid.write_text(f"other:1:5\n{me}:300000:1000\n\nbroken\n{me}:100000:65536\n{me}:x:1\n")
    assert rootless.id_map(subuid, 1000) == [(0, 1000, 1), (1, 100000, 65536), (65537, 300000, 1000)]


def test_a_file_that_is_not_there_has_no_ranges(tmp_path: Path) -> None:
    assert rootless.subordinate_ids(tmp_path / "nothing") == []


def test_ids_that_are_offered_belong_to_nobody_yet(tmp_path: Path) -> None:
    subuid, subgid = tmp_path / "subuid", tmp_path / "subgid"
    assert rootless.ids_to_give(subuid, subgid) == "100000-165535"
    subuid.write_text("other:100000:65536\nthird:300000:1000\n")
    subgid.write_text("other:400000:10\n")
    assert rootless.ids_to_give(subuid, subgid) == "400010-465545"
