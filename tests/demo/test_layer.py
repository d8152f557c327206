from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from imagedist.demo.layer import LayerWriter
from imagedist.oci.digest import Digest


def _members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(path.read_bytes()))) as archive:
        return {member.name: member for member in archive}


def test_files_links_and_directories_come_back_as_they_were(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir(mode=0o750)
    (source / "file").write_bytes(b"content")
    (source / "file").chmod(0o640)
    os.utime(source / "file", (1_000_000_000, 1_000_000_000))
    (source / "link").symlink_to("file")

    with LayerWriter(tmp_path / "layer") as writer:
        for name in ("", "file", "link"):
            assert writer.add_path(str(source / name), f"opt/{name}".rstrip("/"))
        written = writer.finish()

    members = _members(tmp_path / "layer")
    assert members["opt"].isdir()
    assert members["opt/file"].size == 7
    assert (members["opt/file"].mode, members["opt/file"].mtime) == (0o640, 1_000_000_000)
    assert members["opt/link"].linkname == "file"
    assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}
    assert written.digest == Digest.of((tmp_path / "layer").read_bytes())
    assert written.size_bytes == (tmp_path / "layer").stat().st_size


def test_further_names_of_one_file_become_hard_links(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"same")
    (tmp_path / "two").hardlink_to(tmp_path / "one")

    with LayerWriter(tmp_path / "layer") as writer:
        writer.add_path(str(tmp_path / "one"), "one")
        writer.add_path(str(tmp_path / "two"), "two")
        writer.finish()

    member = _members(tmp_path / "layer")["two"]
    assert member.islnk()
    assert member.linkname == "one"


def test_special_files_and_missing_ones_are_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with LayerWriter(tmp_path / "layer") as writer:
        assert not writer.add_path(str(tmp_path / "pipe"), "pipe")
        assert not writer.add_path(str(tmp_path / "nothing"), "nothing")
        writer.finish()

    assert _members(tmp_path / "layer") == {}


def test_a_name_that_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff")
    (tmp_path / name).write_bytes(b"")

    with LayerWriter(tmp_path / "layer") as writer:
        assert not writer.add_path(str(tmp_path / name), name)
        writer.finish()


def test_a_directory_is_described_once(tmp_path: Path) -> None:
    with LayerWriter(tmp_path / "layer") as writer:
        writer.add_directory("etc", 0o700)
        writer.add_directory("etc", 0o755)
        writer.finish()

    assert _members(tmp_path / "layer")["etc"].mode == 0o700


@pytest.mark.parametrize("name", ["d" * 90 + "/" + "f" * 160, "ümlaut"])
def test_long_and_foreign_names_survive(tmp_path: Path, name: str) -> None:
    with LayerWriter(tmp_path / "layer") as writer:
        writer.add_bytes(name, b"x")
        writer.finish()

    assert list(_members(tmp_path / "layer")) == [name]
