"""No hostile layer changes anything outside its own directory, whatever becomes of it: the whole pipeline, as root."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from imagedist.errors import IntegrityError, UnacceptableError
from imagedist.overlay.tree import Directory, walk
from imagedist.overlay.view import View
from tests.hostile.corpus import corpus
from tests.support import layers
from tests.support.counts import count
from tests.support.pipeline import Pipeline, pipeline

ALL = list(corpus("/outside"))
NAMES = ALL[:: count(2, 1)]
SYSTEM = [
    Path(path)
    for path in ("/etc/passwd", "/etc/shadow", "/bin/sh", "/usr", "/dev/null", "/proc/sys/kernel/core_pattern")
]
_OF_A_LAYER = {"diff", "link", "lower", "work", "merged", "empty", "tar-split.gz"}
_LAYER_ID = re.compile(r"[0-9a-f]{64}\Z")

pytestmark = pytest.mark.root


class World:
    """A store, and around it what must stay as it is."""

    def __init__(self, scratch: Path, ours: Pipeline) -> None:
        self.ours = ours
        self.store = scratch / "engine/storage"
        self.outside = scratch / "outside"
        self._scratch = scratch
        (self.outside / "nest").mkdir(parents=True)
        (self.outside / "nest/egg").write_bytes(b"egg")
        (self.outside / "canary").write_bytes(b"sings")
        (self.outside / "way").symlink_to("nest")
        os.mkfifo(self.outside / "pipe")

    def watched(self) -> dict[Path, object]:
        """Times of change included: nobody can set those back, so what was touched and mended shows too."""
        paths = [self._scratch, self._scratch / "engine", *SYSTEM, self.outside, *self.outside.rglob("*")]
        return {path: _seen(path) for path in paths}

    def strays(self) -> list[str]:
        """What is in the store's directories and is none of its own."""
        overlay = self.store / "overlay"
        found = [
            path
            for path in overlay.iterdir()
            if not _LAYER_ID.match(path.name) and path.name not in ("l", ".has-mount-program")
        ]
        found += [
            path
            for layer in overlay.iterdir()
            if layer.name != "l"
            for path in layer.iterdir()
            if path.name not in _OF_A_LAYER
        ]
        found += [path for path in (self.store / "overlay/l").iterdir() if not path.is_symlink()]
        return [str(path) for path in found]


def _seen(path: Path) -> object:
    if path.is_relative_to("/proc"):
        return path.read_bytes()  # it has a new inode whenever the kernel took the old one's memory
    status = path.lstat()
    fixed = (status.st_mode, status.st_uid, status.st_gid, status.st_ino, status.st_nlink, status.st_size)
    if stat.S_ISCHR(status.st_mode):
        return (*fixed, status.st_rdev)  # any container runtime of the machine chowns its standard streams
    content = path.read_bytes() if path.is_file() and path.name in ("canary", "egg") else None
    return (*fixed, status.st_rdev, status.st_mtime_ns, status.st_ctime_ns, content)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        (Path(scratch) / "engine").mkdir()
        with pipeline(Path(scratch) / "engine") as ours:
            yield World(Path(scratch), ours)


def test_corpus_is_large_enough() -> None:
    assert len(NAMES) >= 200


@pytest.mark.prove
@pytest.mark.parametrize("name", NAMES)
def test_nothing_outside_changes(world: World, name: str) -> None:
    built = layers.image(corpus(str(world.outside))[name], compression="none")
    before = world.watched()
    with suppress(UnacceptableError, IntegrityError):
        image = world.ours.pull(built)
        store = world.ours.engine.store
        here = [path for path, _ in walk(View(store.diffs(image)))]
        mounted = store.mount(image)
        try:
            assert [path for path, _ in walk(Directory(mounted))] == here
        finally:
            store.umount(image)
    assert world.watched() == before
    assert world.strays() == []


def test_store_still_works_after_all_of_them(world: World) -> None:
    view = world.ours.unpack([layers.tar([layers.file("f", b"x")])])
    assert [path for path, _ in walk(view)] == ["", "f"]
