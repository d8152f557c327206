"""A stack of layer directories shows what sequential application of the layers gives."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from imagedist.errors import UnacceptableError
from imagedist.overlay import view
from tests.support import layers, oracle, unpacking
from tests.support.counts import count
from tests.support.layers import Member, directory, fifo, file, hardlink, opaque, symlink, whiteout

_NAMES = st.sampled_from(["a", "b", "c"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_MEMBERS = st.one_of(
    st.builds(lambda path, content: file(path, content.encode()), _PATHS, st.sampled_from(["x", "yy", ""])),
    st.builds(lambda path, mode: directory(path, mode), _PATHS, st.sampled_from([0o755, 0o700, 0o1777])),
    st.builds(symlink, _PATHS, st.sampled_from(["a", "/b", "../c", "b/c", "nowhere"])),
    st.builds(hardlink, _PATHS, _PATHS),
    st.builds(fifo, _PATHS),
    st.builds(whiteout, _PATHS),
    st.builds(opaque, st.one_of(st.just(""), _PATHS)),
)
_REFUSED = ("by two names", "too many symlinks")
_LAYERS = st.lists(st.lists(_MEMBERS, max_size=8), min_size=1, max_size=4)


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


def _stacked(tars: list[bytes], directory: Path) -> list[Path]:
    """Leaves out what is refused because only the order of the entries, not known at merge, says what is meant."""
    try:
        return unpacking.stack(tars, directory)
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
@settings(max_examples=count(120, 5000), deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(_LAYERS)
def test_stack_of_layers_equals_sequential_application(drawn: list[list[Member]]) -> None:
    tars, expected = _possible(drawn)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        found = view.tree(_stacked(tars, Path(scratch)))
    assert unpacking.summary(found) == oracle.summary(expected)


@pytest.mark.prove
@pytest.mark.timeout(count(120, 1800))
@pytest.mark.root
@settings(max_examples=count(15, 500), deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(_LAYERS)
def test_kernel_shows_the_same_as_our_view(drawn: list[list[Member]]) -> None:
    tars, expected = _possible(drawn)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        root = Path(scratch)
        diffs = _stacked(tars, root)
        (root / "empty").mkdir()
        (root / "merged").mkdir()
        lowers = ":".join([*map(str, reversed(diffs)), str(root / "empty")])
        subprocess.run(["mount", "-t", "overlay", "x", "-o", f"ro,lowerdir={lowers}", root / "merged"], check=True)
        try:
            mounted = view.tree([root / "merged"])
        finally:
            subprocess.run(["umount", root / "merged"], check=True)
    assert unpacking.summary(mounted) == oracle.summary(expected)
