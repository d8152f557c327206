from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imagedist.cli import app
from imagedist.difference import ASPECTS, IGNORABLE, Difference, compare, parse_ignored, printable
from imagedist.errors import InputError
from imagedist.overlay.tree import Directory
from imagedist.overlay.view import View
from tests.support import layers, unpacking

IS_ROOT = os.geteuid() == 0
TIME_NS = 1_700_000_000_123_456_789


def build(root: Path) -> Path:
    """A small tree with one of each."""
    (root / "d/e").mkdir(parents=True)
    (root / "d/f").write_bytes(b"content")
    (root / "d/g").write_bytes(b"x" * 3_000_000)
    (root / "d-e").write_bytes(b"")
    (root / "one").write_bytes(b"linked")
    os.link(root / "one", root / "two")
    (root / "alone").write_bytes(b"linked")
    (root / "s").symlink_to("d/f")
    os.mkfifo(root / "p")
    if IS_ROOT:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 0))
    for top, directories, files in os.walk(root, topdown=False):
        for name in (*directories, *files, "."):
            os.utime(Path(top, name), ns=(TIME_NS, TIME_NS), follow_symlinks=False)
    return root


def settle(path: Path) -> None:
    os.utime(path.parent, ns=(TIME_NS, TIME_NS))


def rewrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(TIME_NS, TIME_NS))


def replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)
    os.utime(path, ns=(TIME_NS, TIME_NS), follow_symlinks=False)
    settle(path)


def xattr(name: str, value: bytes) -> Callable[[Path], None]:
    return lambda root: os.setxattr(root / "d/f", name, value)


def relink(root: Path) -> None:
    replace(root / "two", lambda path: os.link(root / "alone", path))


CHANGES: dict[str, tuple[Callable[[Path], object], list[tuple[str, str]]]] = {
    "nothing": (lambda root: None, []),
    "missing": (lambda root: ((root / "d/f").unlink(), settle(root / "d/f")), [("d/f", "presence")]),
    "more": (lambda root: ((root / "d/z").write_bytes(b""), settle(root / "d/z")), [("d/z", "presence")]),
    "kind": (lambda root: replace(root / "d/f", Path.mkdir), [("d/f", "kind")]),
    "mode": (lambda root: (root / "d/f").chmod(0o600), [("d/f", "mode")]),
    "set-id": (lambda root: (root / "d/f").chmod(0o4644), [("d/f", "mode")]),
    "sticky": (lambda root: (root / "d/e").chmod(0o1755), [("d/e", "mode")]),
    "size": (lambda root: rewrite(root / "d/f", b"contents"), [("d/f", "size")]),
    "content": (lambda root: rewrite(root / "d/f", b"Content"), [("d/f", "content")]),
    "last byte": (lambda root: rewrite(root / "d/g", b"x" * 2_999_999 + b"y"), [("d/g", "content")]),
    "target": (lambda root: replace(root / "s", lambda path: path.symlink_to("d/g")), [("s", "target")]),
    "mtime": (lambda root: os.utime(root / "d/f", ns=(0, TIME_NS + 1)), [("d/f", "mtime")]),
    "symlink's mtime": (lambda root: os.utime(root / "s", ns=(0, 5), follow_symlinks=False), [("s", "mtime")]),
    "directory's mtime": (lambda root: os.utime(root / "d", ns=(0, -5)), [("d", "mtime")]),
    "root's mode": (lambda root: root.chmod(0o700), [("", "mode")]),
    "unlinked": (lambda root: replace(root / "two", lambda path: path.write_bytes(b"linked")), [("two", "links")]),
    "other link": (relink, [("two", "links")]),
    "more links": (
        lambda root: replace(root / "alone", lambda path: os.link(root / "one", path)),
        [("one", "links"), ("two", "links")],
    ),
}
AS_ROOT: dict[str, tuple[Callable[[Path], object], list[tuple[str, str]]]] = {
    "owner": (lambda root: os.chown(root / "d/f", 1, -1), [("d/f", "owner")]),
    "group": (lambda root: os.chown(root / "s", -1, 1, follow_symlinks=False), [("s", "owner")]),
    "device": (
        lambda root: replace(root / "null", lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))),
        [("null", "device")],
    ),
    "kind of device": (
        lambda root: replace(root / "null", lambda path: os.mknod(path, stat.S_IFBLK | 0o666, os.makedev(1, 3))),
        [("null", "kind")],
    ),
    "capability": (xattr("security.capability", b"\x01\0\0\x02\0\x04" + bytes(14)), [("d/f", "xattrs")]),
    "whiteout": (
        lambda root: replace(root / "p", lambda path: os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(0, 0))),
        [("p", "kind")],
    ),
}


def differences(left: Path, right: Path, *ignored: str) -> list[tuple[str, str]]:
    return [(one.path, one.aspect) for one in compare(Directory(left), Directory(right), ignored)]


@pytest.mark.parametrize("name", CHANGES)
def test_each_kind_of_difference_is_found_and_nothing_else(name: str, tmp_path: Path) -> None:
    change, expected = CHANGES[name]
    check(tmp_path, change, expected)


@pytest.mark.root
@pytest.mark.parametrize("name", AS_ROOT)
def test_each_kind_of_difference_that_root_makes_is_found(name: str, tmp_path: Path) -> None:
    change, expected = AS_ROOT[name]
    check(tmp_path, change, expected)


def check(tmp_path: Path, change: Callable[[Path], object], expected: list[tuple[str, str]]) -> None:
    left, right = build(tmp_path / "left"), build(tmp_path / "right")
    change(right)
    assert differences(left, right) == expected
    assert differences(right, left) == expected
    assert [one for one in differences(left, right, *IGNORABLE) if one[1] not in ("presence", "kind")] == []


def test_user_xattr_that_differs_is_found_and_overlayfs_marks_are_not(tmp_path: Path) -> None:
    left, right = build(tmp_path / "left"), build(tmp_path / "right")
    try:
        xattr("user.note", b"a")(left)
        xattr("user.note", b"b")(right)
        xattr("user.overlay.origin", b"b")(right)
    except OSError:
        pytest.skip("this file system has no user xattrs")
    (found,) = compare(Directory(left), Directory(right))
    assert (found.aspect, found.left, found.right) == ("xattrs", "user.note=61", "user.note=62")


def test_what_is_below_a_directory_of_one_side_is_told_once(tmp_path: Path) -> None:
    left, right = tmp_path / "left", tmp_path / "right"
    for path in ("left/a/b/c", "left/a-b", "left/z/y", "right/a-b", "right/z/y", "right/0/1"):
        (tmp_path / path).mkdir(parents=True)
    assert differences(left, right, "mtime") == [("0", "presence"), ("a", "presence")]


def test_layers_are_compared_without_mounting_them(tmp_path: Path) -> None:
    base = [layers.directory("d"), layers.file("d/f", b"x"), layers.file("d/gone")]
    diffs = unpacking.stack([layers.tar(one) for one in (base, [layers.whiteout("d/gone")])], tmp_path / "stack")
    merged = unpacking.stack([layers.tar(base[:2])], tmp_path / "merged")
    assert list(compare(View(diffs), Directory(merged[0]), {"root-mtime"})) == []
    assert [one.path for one in compare(View(diffs[:1]), Directory(merged[0]), {"root-mtime"})] == ["d/gone"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("plain é", "plain é"), ("a\nb", "a\\nb"), ("\x1b[2J", "\\x1b[2J"), ("caf\udce9", "caf\\xe9"), ("a\\b", "a\\\\b")],
)
def test_hostile_names_are_printed_on_one_harmless_line(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert Difference(name, "mode", "0644", "0755").line() == f"/{shown}  mode: 0644 | 0755"


def test_ignored_aspects_are_checked() -> None:
    assert parse_ignored("mtime, root-mode") == {"mtime", "root-mode"}
    with pytest.raises(InputError, match="mtimes: expected some of mode, owner"):
        parse_ignored("mtimes")
    assert set(IGNORABLE) > set(ASPECTS) - {"presence", "kind"}


def test_command_tells_each_difference_and_ends_as_diff_does(tmp_path: Path) -> None:
    left, right = build(tmp_path / "left"), build(tmp_path / "right")
    run = CliRunner().invoke
    assert (run(app, ["diff", str(left), str(right)]).exit_code, run(app, ["diff", str(left), str(right)]).output) == (
        0,
        "",
    )
    (right / "d/f").chmod(0o600)
    told = run(app, ["diff", str(left), str(right)])
    assert (told.exit_code, told.output) == (1, "/d/f  mode: 0644 | 0600\n")
    told = run(app, ["diff", "--json", str(left), str(right)])
    assert json.loads(told.output) == {"path": "d/f", "aspect": "mode", "left": "0644", "right": "0600"}
    assert run(app, ["diff", "--ignore", "mode", str(left), str(right)]).exit_code == 0
    assert run(app, ["diff", "--ignore", "nothing", str(left), str(right)]).exit_code == 2
    assert run(app, ["diff", str(left), str(tmp_path / "none")]).exit_code == 2
    assert run(app, ["diff", "--root", str(tmp_path / "store"), str(left), "no/image:1"]).exit_code == 2
