"""Images for measuring: the same bytes every time, and the same files however they are cut."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from bench import images
from bench.layer import write_tree
from bench.merged import merged
from bench.recut import recut, with_application
from imagedist.demo.layer import WrittenLayer
from imagedist.demo.layout import BuiltImage, built_once, write_image
from imagedist.errors import InputError, UnacceptableError
from tests.support.layers import Member, tar

Tree = dict[str, tuple[bytes, int, int, float, str, str]]


def layer(path: Path, content: bytes) -> WrittenLayer:
    """A layer blob of a ready tar."""
    from imagedist.oci.digest import Digest

    blob = gzip.compress(content, 1, mtime=0)
    path.write_bytes(blob)
    return WrittenLayer(path, Digest.of(blob), Digest.of(content), len(blob))


def image(directory: Path, *layers: list[Member]) -> BuiltImage:
    def write(fresh: Path) -> None:
        written = [layer(fresh / f"{number}.layer", tar(members)) for number, members in enumerate(layers)]
        write_image(fresh, [("test", one) for one in written], "test/image:1", ["/bin/true"])

    return built_once(directory, {"test": directory.name}, write)


def files(number: int, count: int, size_bytes: int) -> list[Member]:
    content = [hashlib.sha256(f"{number}-{one}".encode()).digest() * (size_bytes // 32) for one in range(count)]
    names = [f"usr/part{number}/file{one:03}" for one in range(count)]
    return [
        Member("usr", tarfile.DIRTYPE, mode=0o755),
        Member(f"usr/part{number}", tarfile.DIRTYPE, mode=0o750),
        *(Member(name, content=one, mtime=number) for name, one in zip(names, content, strict=True)),
    ]


def tree(built: BuiltImage, scratch: Path) -> Tree:
    """What the merged image holds: type, mode, owner, time, link target or first name, digest of the content."""
    scratch.mkdir()
    found: Tree = {}
    with merged(built, scratch) as table:
        first: dict[object, str] = {}
        for name, inode in sorted(table.inodes.items()):
            entry = inode.entry
            with inode.tar.open("rb") as archive:
                archive.seek(entry.offset_data)
                content = archive.read(entry.size) if entry.isreg() else b""
            link = entry.linkname or first.setdefault(inode, name)
            digest = hashlib.sha256(content).hexdigest()
            found[name] = (entry.type, entry.mode, entry.uid, entry.mtime, link, digest)
    return found


@pytest.fixture
def source(tmp_path: Path) -> BuiltImage:
    """Three layers with what makes cutting hard: hard links, replaced and removed files, an opaque directory."""
    return image(
        tmp_path / "source",
        [*files(0, 20, 3200), Member("empty", tarfile.DIRTYPE), Member("old", content=b"old")],
        [
            *files(1, 30, 6400),
            Member("usr/part1/same", tarfile.LNKTYPE, link="usr/part1/file000"),
            Member("link", tarfile.SYMTYPE, link="usr/part1"),
            Member("old", content=b"new"),
        ],
        [Member("usr/part0/.wh.file003"), Member("empty/.wh..wh..opq"), Member("huge", content=os.urandom(200_000))],
    )


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_recut_image_has_the_same_merged_tree(source: BuiltImage, count: int, tmp_path: Path) -> None:
    cut = recut(source, count, tmp_path)
    assert len(cut.image.layers) == count
    assert tree(cut, tmp_path / "cut") == tree(source, tmp_path / "whole")


def test_whiteouts_and_replacements_are_gone_from_a_recut_image(source: BuiltImage, tmp_path: Path) -> None:
    names = tree(recut(source, 2, tmp_path), tmp_path / "cut")
    assert "usr/part0/file003" not in names
    assert not [name for name in names if ".wh." in name]
    assert names["old"][-1] == hashlib.sha256(b"new").hexdigest()


def test_layers_are_balanced_by_bytes(tmp_path: Path) -> None:
    built = image(tmp_path / "even", files(0, 64, 32_000))
    with merged(built, tmp_path) as table:
        sizes = [sum(table.inodes[name].entry.size for name in run) for run in table.cut(8)]
    assert len(sizes) == 8
    assert max(sizes) <= 1.3 * min(sizes)


def test_no_layer_is_empty_beside_a_file_larger_than_its_share(source: BuiltImage, tmp_path: Path) -> None:
    with merged(source, tmp_path) as table:
        runs = table.cut(16)
    assert len(runs) == 16
    assert all(runs)


def test_all_names_of_a_file_stay_in_one_layer(source: BuiltImage, tmp_path: Path) -> None:
    with merged(source, tmp_path) as table:
        runs = table.cut(16)
    assert [("usr/part1/file000" in run) for run in runs] == [("usr/part1/same" in run) for run in runs]


def test_an_image_is_not_built_twice(source: BuiltImage, tmp_path: Path) -> None:
    cut = recut(source, 2, tmp_path)
    inode = (cut.layout / "index.json").stat().st_ino
    assert (recut(source, 2, tmp_path).layout / "index.json").stat().st_ino == inode


def test_a_directory_with_something_else_is_not_replaced_by_an_image(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious").touch()
    with pytest.raises(InputError, match="there is something else in it; name another place"):
        image(tmp_path / "mine", files(0, 1, 100))
    assert (tmp_path / "mine/precious").exists()


def test_a_damaged_image_is_built_again(source: BuiltImage, tmp_path: Path) -> None:
    cut = recut(source, 2, tmp_path)
    digest = cut.image.manifest_digest
    (cut.layout / "index.json").unlink()
    assert recut(source, 2, tmp_path).image.manifest_digest == digest


def test_an_application_is_one_more_layer_of_the_size_asked_for(source: BuiltImage, tmp_path: Path) -> None:
    updated = with_application(source, 4_000, tmp_path)
    below = [one.descriptor.digest for one in source.image.layers]
    assert [one.descriptor.digest for one in updated.image.layers[:-1]] == below
    assert updated.image.layers[-1].descriptor.size_bytes >= 4_000
    names = tree(updated, tmp_path / "updated")
    assert [name for name in names if name.startswith("opt/application/")]


def test_an_entry_below_a_link_is_refused_with_its_name(tmp_path: Path) -> None:
    built = image(
        tmp_path / "linked",
        [Member("link", tarfile.SYMTYPE, link="usr"), Member("link/file", content=b"x")],
    )
    with pytest.raises(UnacceptableError, match="link/file"):
        recut(built, 2, tmp_path)


def test_a_tree_becomes_the_same_layer_every_time(tmp_path: Path) -> None:
    below = tmp_path / "tree"
    (below / "b").mkdir(parents=True)
    (below / "b/file").write_text("content")
    (below / "a").hardlink_to(below / "b/file")
    (below / "link").symlink_to("b/file")
    os.utime(below / "b/file", (5_000, 5_000))
    first, second = (write_tree(below, tmp_path / name, 10_000) for name in ("one", "two"))
    assert (first.digest, first.diff_id) == (second.digest, second.diff_id)
    plain = gzip.decompress(first.path.read_bytes())
    assert hashlib.sha256(plain).hexdigest() == first.diff_id.hex
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        entries = {entry.name: entry for entry in archive}
    assert list(entries) == ["a", "b", "b/file", "link"]
    assert entries["b/file"].islnk()
    assert entries["b/file"].linkname == "a"
    assert entries["a"].mtime == 5_000
    assert entries["b"].mtime == 10_000  # made just now: clamped


def test_the_tiny_image_is_the_same_everywhere(tmp_path: Path) -> None:
    first, second = (images.tiny(tmp_path / name) for name in ("one", "two"))
    assert first.image.manifest_digest == second.image.manifest_digest
