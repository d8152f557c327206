"""A layer is extracted the same, however its tar arrives and whoever makes its files."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagedist.errors import UnacceptableError
from imagedist.overlay.view import View
from imagedist.unpack.extract import ExtractedLayer, Extraction, extract_jobs, extract_layer
from imagedist.unpack.limits import DEFAULTS, Limits
from imagedist.unpack.ordinary import Job
from imagedist.unpack.ring import Ring
from imagedist.unpack.window import BUFFER_BYTES, UNLIMITED
from tests.support import layers
from tests.support.counts import count
from tests.support.layers import Member, directory, fifo, file, hardlink, opaque, sparse_file, symlink, whiteout
from tests.support.tarsplit import reassembled

_PATHS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)
_CONTENTS = [b"", b"x", b"y" * 5000, b"z" * (BUFFER_BYTES - 512), b"big" * 200_000]
_MAKE: dict[str, Callable[[str, str, bytes], Member]] = {
    "file": lambda path, other, content: file(path, content),
    "another file": lambda path, other, content: file(path, content + b"!"),
    "file by a strange name": lambda path, other, content: file(f"./{path}/../up", content),
    "file through a symlink": lambda path, other, content: file("s/f", content),
    "directory": lambda path, other, content: directory(path),
    "symlink": lambda path, other, content: symlink("s", other),
    "hard link": lambda path, other, content: hardlink(path, other),
    "fifo": lambda path, other, content: fifo(path),
    "whiteout": lambda path, other, content: whiteout(path),
    "opaque": lambda path, other, content: opaque(path),
    "sparse": lambda path, other, content: sparse_file(path, "1.0", 1 << 20, ((4096, 5), (9000, 3)), b"12345678"),
}
_CHOICES = st.tuples(st.sampled_from(sorted(_MAKE)), _PATHS, _PATHS, st.integers(0, len(_CONTENTS) - 1))


def arriving(tar: bytes, target: Path, choice: random.Random, limits: Limits = DEFAULTS) -> ExtractedLayer:
    """Extracts a tar that arrives in random pieces, some of its files made by others, and is forgotten behind."""
    target.mkdir()
    ring = Ring(target / "staged", choice.choice([512, 5000, 300_000, UNLIMITED]))
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with closing(ring), closing(Extraction(ring.tar, target, limits, buffer)) as extraction:
        available, forgotten = 0, 0
        while not extraction.is_ended:
            piece = tar[available : available + choice.choice([1, 100, 512, 3000, 100_000, 1_000_000])]
            while available + len(piece) - extraction.position > ring.tar.ring_bytes:
                ring.double(extraction.position, available)
                extraction.move(ring.tar)
            write(ring, available, piece)
            available += len(piece)
            jobs: list[Job] | None = [] if choice.random() < 0.5 else None
            slice_bytes = choice.choice([None, 1, 1 << 20])
            extraction.advance(available, available == len(tar), slice_bytes=slice_bytes, jobs=jobs)
            extract_jobs(ring.tar, available, target, jobs or [], limits)
            buffer[:] = bytes(len(buffer))  # another layer used it
            write(ring, forgotten, b"\xff" * (extraction.position - forgotten))
            forgotten = extraction.position
        return extraction.finish()


def write(ring: Ring, offset: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        written = ring.write(offset, rest)
        rest, offset = rest[written:], offset + written


@pytest.mark.prove
@pytest.mark.timeout(count(120, 1800))
@settings(max_examples=count(150, 5000), deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.lists(_CHOICES, max_size=8), st.integers(0, 1000), st.booleans())
def test_layer_is_the_same_however_it_arrives(
    chosen: list[tuple[str, str, str, int]], seed: int, has_garbage: bool
) -> None:
    members = [_MAKE[kind](path, other, _CONTENTS[content]) for kind, path, other, content in chosen]
    tar = layers.tar(members) + b"garbage" * 50_000 * has_garbage
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "tar"
        whole.write_bytes(tar)
        (Path(scratch) / "at-once").mkdir()
        results: list[ExtractedLayer] = []
        errors: list[str] = []
        for extract in (
            lambda: extract_layer(whole, Path(scratch) / "at-once"),
            lambda: arriving(tar, Path(scratch) / "arriving", random.Random(seed)),
        ):
            try:
                results.append(extract())
            except UnacceptableError as error:
                errors.append(str(error))
        if errors:
            assert len(set(errors)) == 1
            assert not results
            return
        one, other = results
        for name in ("tar_bytes", "undescribed", "whiteouts", "no_symlinks", "opaque", "lower_links", "uids", "gids"):
            assert getattr(one, name) == getattr(other, name)
        assert snapshot(one) == snapshot(other)
        assert [reassembled(layer.directory) == tar for layer in results] == [True, True]


def snapshot(layer: ExtractedLayer) -> dict[str, tuple[object, ...]]:
    """Everything of its files; links by the first name of their inode."""
    seen: dict[int, str] = {}
    tree: dict[str, tuple[object, ...]] = {}
    for path in sorted((layer.directory / "diff").rglob("*")):
        name, status = str(path.relative_to(layer.directory)), path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        target = str(path.readlink()) if path.is_symlink() else ""
        first = seen.setdefault(status.st_ino, name)
        described = status.st_mode, status.st_uid, status.st_mtime_ns if content else 0
        tree[name] = (*described, hashlib.sha256(content).digest(), target, first)
    return tree


def test_replaced_file_is_found_in_the_tar_split_though_its_pages_are_gone(tmp_path: Path) -> None:
    members = [
        file("f", b"first" * 1000),
        file("d/inside", b"inside" * 1000),
        hardlink("other-name", "f"),
        file("f", b"second"),
        file("d", b"no directory any more"),
    ]
    tar = layers.tar(members)
    extracted = arriving(tar, tmp_path / "layer", random.Random(1))
    assert reassembled(extracted.directory) == tar
    tree = View([extracted.directory / "diff"])
    assert (extracted.directory / "diff/other-name").read_bytes() == b"first" * 1000
    found = tree.lookup("f")
    assert found is not None
    assert found.paths[0].read_bytes() == b"second"
