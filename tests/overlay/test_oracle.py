"""A stack of layer directories shows what sequential application of the layers gives."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from imagedist.errors import UnacceptableError
from imagedist.overlay.tree import Directory
from imagedist.overlay.view import View
from tests.support import layers, oracle, sparse, unpacking
from tests.support.counts import count
from tests.support.layers import (
    Member,
    block_device,
    character_device,
    directory,
    fifo,
    file,
    hardlink,
    opaque,
    sparse_file,
    symlink,
    whiteout,
)
from tests.support.pipeline import Pipeline, pipeline

_NAMES = st.sampled_from(["a", "b", "c"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_XATTRS = st.sampled_from([{}, {}, {"SCHILY.xattr.user.note": "x"}, {"SCHILY.xattr.user.overlay.opaque": "y"}])
_OF_ROOT = os.geteuid() == 0


@st.composite
def _described(draw: st.DrawFn) -> dict[str, Any]:
    """What any entry may say; owners only where they can be had."""
    mtime = draw(st.sampled_from([layers.MTIME, 0, -5, 1.25, 2**33]))
    owner = draw(st.sampled_from([(0, 0), (7, 0), (1000, 2000)])) if _OF_ROOT else (os.geteuid(), os.getegid())
    return {"mtime": mtime, "uid": owner[0], "gid": owner[1]}


def _made(make: Callable[..., Member], *arguments: st.SearchStrategy[Any], **named: Any) -> st.SearchStrategy[Member]:
    strategies = {
        name: st.just(value) if not isinstance(value, st.SearchStrategy) else value for name, value in named.items()
    }
    return st.builds(
        lambda values, described, more: make(*values, **described, **more),
        st.tuples(*arguments),
        _described(),
        st.fixed_dictionaries(strategies),
    )


_CONTENT = st.sampled_from([b"x", b"yy", b"", b"z" * 5000])
_MEMBERS = st.one_of(
    _made(file, _PATHS, _CONTENT, mode=st.sampled_from([0o644, 0o4755, 0o2755, 0]), pax=_XATTRS),
    _made(directory, _PATHS, st.sampled_from([0o755, 0o700, 0o1777, 0o2775]), pax=_XATTRS),
    _made(symlink, _PATHS, st.sampled_from(["a", "/b", "../c", "b/c", "nowhere"])),
    _made(hardlink, _PATHS, _PATHS),
    _made(fifo, _PATHS),
    *(
        [_made(character_device, _PATHS, st.just(1), st.just(3)), _made(block_device, _PATHS, st.just(7), st.just(9))]
        if _OF_ROOT
        else []
    ),
    st.builds(
        lambda path, form, extents: sparse_file(path, form, 9000, extents, b"s" * sum(length for _, length in extents)),
        _PATHS,
        st.sampled_from(sparse.FORMS),
        st.sampled_from([[(9000, 0)], [(0, 10), (4096, 100)], [(8999, 1)]]),
    ),
    st.builds(whiteout, _PATHS),
    st.builds(opaque, st.one_of(st.just(""), _PATHS)),
)
_REFUSED = ("by two names", "too many symlinks")
_LAYERS = st.lists(st.lists(_MEMBERS, max_size=8), min_size=1, max_size=4)
_SETTINGS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "derandomize": True}


def _possible(drawn: list[list[Member]]) -> tuple[list[bytes], oracle.Tree]:
    """The layers without the members that cannot be applied, and what they give."""
    tree: oracle.Tree = {}
    tars: list[bytes] = []
    for members in drawn:
        kept: list[Member] = []
        after = tree
        for member in sorted(members, key=_order):
            try:
                after = oracle.apply(tree, layers.tar([*kept, member]))
            except oracle.RefusedError:
                continue
            kept.append(member)
        tars.append(layers.tar(kept))
        tree = after if kept else tree
    return tars, tree


@contextmanager
def _meant() -> Iterator[None]:
    """Leaves out what is refused because only the order of the entries, not known at merge, says what is meant."""
    try:
        yield
    except UnacceptableError as error:
        if not any(reason in str(error) for reason in _REFUSED):
            raise
        reject()


def _order(member: Member) -> tuple[int, int]:
    """Whiteouts first and a directory before what is in it, as every known tool writes; the rest as drawn."""
    is_whiteout = member.name.rpartition("/")[2].startswith(".wh.")
    return (0, 0) if is_whiteout else (1, member.name.count("/"))


@pytest.mark.prove
@pytest.mark.timeout(count(120, 1800))
@settings(max_examples=count(60, 5000), **_SETTINGS)
@given(_LAYERS)
def test_stack_of_layers_equals_sequential_application(drawn: list[list[Member]]) -> None:
    tars, tree = _possible(drawn)
    expected = oracle.summary(tree)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch, _meant():
        assert unpacking.summary(View(unpacking.stack(tars, Path(scratch))), expected) == expected


@pytest.fixture(scope="module")
def ours() -> Iterator[Pipeline]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch, pipeline(Path(scratch), 1 << 20) as made:
        yield made


@pytest.mark.prove
@pytest.mark.timeout(count(120, 1800))
@settings(max_examples=count(40, 3000), **_SETTINGS)
@given(_LAYERS, st.sampled_from(["none", "gzip", "indexed gzip", "zstd"]))
def test_parallel_unpack_equals_sequential_application(
    ours: Pipeline, drawn: list[list[Member]], compression: str
) -> None:
    tars, tree = _possible(drawn)
    expected = oracle.summary(tree)
    with _meant():
        assert unpacking.summary(ours.unpack(tars, compression), expected) == expected


@pytest.mark.prove
@pytest.mark.timeout(count(120, 1800))
@pytest.mark.root
@settings(max_examples=count(15, 500), **_SETTINGS)
@given(_LAYERS)
def test_kernel_shows_the_same_as_our_view(drawn: list[list[Member]]) -> None:
    tars, tree = _possible(drawn)
    expected = oracle.summary(tree)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch, _meant():
        root = Path(scratch)
        diffs = unpacking.stack(tars, root)
        (root / "empty").mkdir()
        (root / "merged").mkdir()
        lowers = ":".join([*map(str, reversed(diffs)), str(root / "empty")])
        subprocess.run(["mount", "-t", "overlay", "x", "-o", f"ro,lowerdir={lowers}", root / "merged"], check=True)
        try:
            mounted = unpacking.summary(Directory(root / "merged"), expected)
        finally:
            subprocess.run(["umount", root / "merged"], check=True)
    assert mounted == expected
