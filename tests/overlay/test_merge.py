"""Golden cases of layer rules that need the lower layers."""

from __future__ import annotations

import gzip
import os
import stat
from pathlib import Path

import pytest

from imagedist.errors import UnacceptableError
from imagedist.overlay import view
from imagedist.overlay.tree import tree
from tests.support import layers, unpacking
from tests.support.layers import Member, directory, file, hardlink, opaque, symlink, whiteout


def stack(tmp_path: Path, *members: list[Member]) -> list[Path]:
    return unpacking.stack([layers.tar(one) for one in members], tmp_path)


def kinds(diffs: list[Path]) -> dict[str, str]:
    return {path: entry.kind for path, entry in tree(diffs).items()}


def test_undescribed_directory_takes_the_lower_ones_metadata(tmp_path: Path) -> None:
    diffs = stack(tmp_path, [directory("d", 0o1777, mtime=42)], [file("d/f")], [file("d/g")])
    for diff in diffs:
        status = (diff / "d").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o1777, 42)


def test_hard_link_to_a_lower_file_is_the_same_file(tmp_path: Path) -> None:
    diffs = stack(tmp_path, [file("a", b"x", mode=0o640)], [directory("d", mtime=7), hardlink("d/b", "a")])
    assert (diffs[1] / "d/b").stat().st_ino == (diffs[0] / "a").stat().st_ino
    assert (diffs[1] / "d").stat().st_mtime == 7


def test_file_moved_by_hard_link_and_whiteout_keeps_its_content(tmp_path: Path) -> None:
    found = tree(stack(tmp_path, [file("a", b"x")], [hardlink("b", "a"), whiteout("a")]))
    assert list(found) == ["b"]
    assert found["b"].size_bytes == 1


def test_hard_link_to_a_file_of_no_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnacceptableError, match="no layer has"):
        stack(tmp_path, [file("a")], [hardlink("b", "nothing")])


def test_undescribed_directory_that_is_a_symlink_below_is_its_target(tmp_path: Path) -> None:
    base = [directory("usr"), directory("usr/bin", 0o711), symlink("bin", "usr/bin"), file("usr/bin/old")]
    diffs = stack(tmp_path, base, [file("bin/new"), whiteout("bin/old")])
    assert kinds(diffs) == {"usr": "directory", "usr/bin": "directory", "bin": "symlink", "usr/bin/new": "file"}
    assert stat.S_IMODE((diffs[1] / "usr/bin").stat().st_mode) == 0o711


def test_opaque_mark_in_a_directory_that_is_a_symlink_below_is_its_targets(tmp_path: Path) -> None:
    base = [directory("usr"), directory("usr/bin"), symlink("bin", "usr/bin"), file("usr/bin/old")]
    diffs = stack(tmp_path, base, [opaque("bin"), file("bin/new")])
    assert set(kinds(diffs)) == {"usr", "usr/bin", "bin", "usr/bin/new"}


def test_described_directory_replaces_a_symlink_below(tmp_path: Path) -> None:
    base = [directory("usr"), file("usr/f"), symlink("bin", "usr")]
    diffs = stack(tmp_path, base, [directory("bin"), file("bin/new")])
    assert kinds(diffs) == {"usr": "directory", "usr/f": "file", "bin": "directory", "bin/new": "file"}


def test_lower_symlink_that_points_outside_stays_inside_the_root(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    diffs = stack(tmp_path / "layers", [symlink("out", f"../../../..{outside}")], [file("out/f", b"x")])
    assert list(outside.iterdir()) == []
    assert diffs[1].joinpath(*outside.parts[1:], "f").read_bytes() == b"x"


def test_whiteout_of_nothing_leaves_no_trace(tmp_path: Path) -> None:
    diffs = stack(tmp_path, [directory("d")], [whiteout("d/none"), whiteout("other/none"), opaque("other")])
    assert os.listdir(diffs[1]) == []


def test_whiteouts_below_a_lower_file_hide_nothing_and_make_no_directories(tmp_path: Path) -> None:
    base = [file("a", b"x"), symlink("c", "a")]
    diffs = stack(tmp_path, base, [file("b"), whiteout("a/a"), whiteout("c/a/a"), opaque("c"), opaque("a/a")])
    assert kinds(diffs) == {"a": "file", "b": "file", "c": "symlink"}
    assert os.listdir(diffs[1]) == ["b"]


@pytest.mark.parametrize("name", ["b", "d/e"])
def test_directory_new_behind_a_lower_symlink_knows_nothing_of_the_hidden_one(tmp_path: Path, name: str) -> None:
    base = [directory("d"), directory(name), directory("x"), symlink("a", name), symlink(f"{name}/c", "/x")]
    diffs = stack(tmp_path, base, [whiteout(name), file("a/c/f")])
    assert set(kinds(diffs)) == {"d", name, "x", "a", f"{name}/c", f"{name}/c/f"}


def test_lower_symlink_to_a_path_behind_another_leads_to_its_end(tmp_path: Path) -> None:
    base = [directory("y"), directory("y/q", 0o711), symlink("z", "y"), symlink("b", "z/q")]
    diffs = stack(tmp_path, base, [file("b/f"), file("z/g")])
    assert set(kinds(diffs)) == {"y", "y/q", "z", "b", "y/q/f", "y/g"}
    assert stat.S_IMODE((diffs[1] / "y/q").stat().st_mode) == 0o711


def test_lower_symlink_to_its_own_directory_is_followed_each_time(tmp_path: Path) -> None:
    base = [directory("bin"), symlink("bin/X11", "."), symlink("all", "/")]
    diffs = stack(tmp_path, base, [file("bin/X11/X11/f"), file("all/bin/X11/g")])
    assert set(kinds(diffs)) == {"bin", "bin/X11", "all", "bin/f", "bin/g"}


@pytest.mark.parametrize(
    ("base", "members"),
    [
        ([directory("w"), symlink("t", "u/v"), directory("u"), symlink("u/v", "/w")], [directory("u/v"), file("t/f")]),
        ([directory("b"), symlink("b/c", "/b")], [file("b/c/d"), symlink("b/c/c", "x")]),
        ([directory("d"), symlink("s", "d")], [file("s/f"), directory("s")]),
        ([directory("d"), symlink("s", "d")], [file("s/f"), file("s")]),
        ([directory("d"), directory("x"), symlink("x/s", "/d")], [file("x/s/f"), file("x")]),
        ([symlink("s", "d/e")], [symlink("s/up", "../x"), file("s/up/f")]),
        ([directory("d"), file("d/f"), symlink("s", "d")], [hardlink("h", "s/f"), file("d/f", b"x")]),
        ([directory("c"), symlink("b", "c/d/e")], [file("b/f"), file("c/d"), file("c/d/e/g")]),
        ([directory("b"), symlink("c", "b/c"), symlink("b/c", "/b")], [file("c/c"), file("c/a")]),
    ],
)
def test_lower_symlink_both_followed_and_replaced_is_refused_as_the_order_is_lost(
    tmp_path: Path, base: list[Member], members: list[Member]
) -> None:
    with pytest.raises(UnacceptableError, match="two names"):
        stack(tmp_path, base, members)


def test_lower_symlinks_in_a_circle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnacceptableError, match="too many symlinks"):
        stack(tmp_path, [symlink("a", "b"), symlink("b", "a")], [file("a/f"), file("b/f")])


def test_opaque_root_hides_everything_below(tmp_path: Path) -> None:
    diffs = stack(tmp_path, [directory("d"), file("d/f"), file("g")], [opaque(""), directory("d"), file("d/new")])
    assert kinds(diffs) == {"d": "directory", "d/new": "file"}


def test_opaque_root_leaves_no_whiteouts_in_a_directory_that_is_opaque_itself(tmp_path: Path) -> None:
    diffs = stack(tmp_path, [file("d/old")], [opaque(""), file("d"), directory("d"), file("d/new")])
    assert set(kinds(diffs)) == {"d", "d/new"}
    mark = view.OPAQUE_MARKS[0 if os.geteuid() == 0 else 1]
    assert mark not in os.listxattr(diffs[1] / "d") or os.listdir(diffs[1] / "d") == ["new"]


def test_opaque_directory_hides_lower_entries_and_keeps_its_siblings(tmp_path: Path) -> None:
    diffs = stack(
        tmp_path,
        [directory("d"), file("d/old"), file("d/sub/deep"), file("kept")],
        [opaque("d"), file("d/new")],
        [file("d/newer")],
    )
    assert set(kinds(diffs)) == {"kept", "d", "d/new", "d/newer"}


def test_deleted_and_recreated_directory_shows_only_the_new_one(tmp_path: Path) -> None:
    diffs = stack(tmp_path, [directory("d"), file("d/old")], [whiteout("d")], [directory("d"), file("d/new")])
    assert set(kinds(diffs)) == {"d", "d/new"}


def test_replaced_file_types_are_what_the_last_layer_says(tmp_path: Path) -> None:
    diffs = stack(
        tmp_path,
        [file("a"), directory("b"), file("b/f"), symlink("c", "b")],
        [directory("a"), file("a/f"), file("b"), file("c")],
        [symlink("a", "b"), directory("b")],
    )
    assert kinds(diffs) == {"a": "symlink", "b": "directory", "c": "file"}


MERGED_USR = [directory("usr"), directory("usr/bin", 0o711), symlink("bin", "usr/bin"), file("usr/bin/old")]


@pytest.mark.parametrize(
    ("members", "left"),
    [
        ([whiteout("usr"), file("bin/new")], {"usr/bin/new"}),
        ([whiteout("usr/bin"), file("bin/new")], {"usr/bin/new"}),
        ([file("usr/bin/old", b"x"), whiteout("bin/old")], {"usr/bin/old"}),
        ([file("bin/old", b"x"), whiteout("usr/bin/old")], {"usr/bin/old"}),
        ([file("usr/bin/d/f"), whiteout("bin/d")], {"usr/bin/old", "usr/bin/d/f"}),
        ([whiteout("usr"), whiteout("bin/old")], set()),
        ([whiteout("usr/bin/old/none"), whiteout("bin/old")], set()),
        ([opaque("usr"), file("bin/new")], {"usr/bin/new"}),
    ],
)
def test_whiteouts_and_lower_symlinks_together_hide_only_what_lower_layers_have(
    tmp_path: Path, members: list[Member], left: set[str]
) -> None:
    found = kinds(stack(tmp_path, MERGED_USR, members))
    assert {path for path, kind in found.items() if kind == "file"} == left


def test_directory_whose_lower_one_is_hidden_takes_nothing_of_it(tmp_path: Path) -> None:
    diffs = stack(tmp_path, MERGED_USR, [whiteout("usr"), file("bin/new")])
    assert stat.S_IMODE((diffs[1] / "usr/bin").stat().st_mode) == 0o755


def test_whiteout_of_nothing_behind_a_dangling_symlink_is_no_error(tmp_path: Path) -> None:
    found = kinds(stack(tmp_path, [symlink("bin", "usr/bin")], [whiteout("usr"), file("bin/new")]))
    assert set(found) == {"bin", "usr", "usr/bin", "usr/bin/new"}


@pytest.mark.parametrize("other", [file("bin/f", b"x"), directory("bin/f"), file("bin/f/below")])
def test_path_that_comes_by_two_names_is_refused_as_its_order_is_lost(tmp_path: Path, other: Member) -> None:
    with pytest.raises(UnacceptableError, match="two names"):
        stack(tmp_path, MERGED_USR, [file("usr/bin/f"), other])


def test_tar_split_names_files_where_the_merge_has_put_them(tmp_path: Path) -> None:
    stack(tmp_path, MERGED_USR, [file("./bin/new", b"x"), file("bin/caf\udce9", b"y"), file("other", b"z")])
    split = gzip.decompress((tmp_path / "1/tar-split.gz").read_bytes())
    assert b'"name":"usr/bin/new"' in split
    assert b'"name_raw":"dXNyL2Jpbi9jYWbp"' in split
    assert b'"name":"other"' in split


def test_endless_symlink_targets_of_lower_layers_are_refused(tmp_path: Path) -> None:
    links = [symlink(f"l{number}", f"l{number + 1}/" + "x/../" * 200) for number in range(30)]
    with pytest.raises(UnacceptableError, match="parts"):
        stack(tmp_path, [directory("x"), directory("l30"), *links], [file("l0/f")])


def test_opaque_directory_that_no_entry_describes_stays_with_the_lower_ones_metadata(tmp_path: Path) -> None:
    diffs = stack(tmp_path, [directory("d", 0o711), directory("d/e"), file("d/e/f")], [opaque("d")])
    assert set(kinds(diffs)) == {"d"}
    assert stat.S_IMODE((diffs[1] / "d").stat().st_mode) == 0o711


def test_directory_whited_out_through_a_lower_symlink_is_a_new_one(tmp_path: Path) -> None:
    base = [*MERGED_USR, directory("usr/bin/d", 0o700)]
    diffs = stack(tmp_path, base, [whiteout("bin/d"), file("usr/bin/d/f")])
    assert stat.S_IMODE((diffs[1] / "usr/bin/d").stat().st_mode) == 0o755


def test_whiteouts_take_overlayfs_form(tmp_path: Path) -> None:
    base = [directory("d", 0o711, mtime=42), file("d/gone"), directory("e"), file("e/old")]
    diffs = stack(tmp_path, base, [whiteout("d/gone"), directory("e"), opaque("e")])
    gone = (diffs[1] / "d/gone").stat()
    assert (stat.S_ISCHR(gone.st_mode), gone.st_rdev) == (True, 0)
    assert (stat.S_IMODE((diffs[1] / "d").stat().st_mode), (diffs[1] / "d").stat().st_mtime) == (0o711, 42)
    mark = view.OPAQUE_MARKS[0 if os.geteuid() == 0 else 1]
    assert os.listdir(diffs[1] / "e") == ["old"] or os.getxattr(diffs[1] / "e", mark) == b"y"
