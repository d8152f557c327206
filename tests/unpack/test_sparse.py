from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from imagedist.errors import UnacceptableError
from imagedist.unpack.entries import Entry, entries
from tests.support import layers, sparse

MANY = [(number * 1000, 10) for number in range(60)]


def read(tar: bytes) -> list[Entry]:
    return list(entries(memoryview(tar)))


def unpacked(tar: bytes, entry: Entry) -> bytes:
    assert entry.sparse is not None
    return sparse.content(entry.sparse.size_bytes, entry.sparse.extents, tar[entry.offset :][: entry.size_bytes])


@pytest.mark.parametrize("form", sparse.FORMS)
@pytest.mark.parametrize(
    ("size_bytes", "extents"),
    [
        (0, []),
        (100_000, []),
        (100_000, [(100_000, 0)]),
        (3000, [(0, 3000)]),
        (100_000, [(0, 512), (4096, 700), (99_999, 1)]),
        (70_000, MANY),
    ],
)
def test_sparse_member_is_read_in_every_form(form: str, size_bytes: int, extents: list[tuple[int, int]]) -> None:
    stored = bytes(range(1, 256)) * 40
    stored = stored[: sum(length for _, length in extents)]
    tar = sparse.member(form, "d/f", size_bytes, extents, stored)
    if form in ("0.0", "0.1") and not extents:
        tar = sparse.member(form, "d/f", size_bytes, [(size_bytes, 0)], b"")  # without a list it is no sparse file
    tar += layers.tar([layers.file("after", b"x")])
    first, after = read(tar)
    assert (first.name, first.kind, after.name) == ("d/f", b"0", "after")
    assert unpacked(tar, first) == sparse.content(size_bytes, extents, stored)


@pytest.mark.parametrize(
    "options",
    [["--format=gnu"], *(["--format=posix", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0"))],
)
def test_what_gnu_tar_writes_is_read(options: list[str], tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        for place in range(0, 40 << 16, 1 << 16):
            file.seek(place)
            file.write(b"%d" % place)
        file.truncate(50 << 16)
    tar = subprocess.run(
        ["tar", "--sparse", *options, "-cf", "-", "f"], cwd=tmp_path, capture_output=True, check=True
    ).stdout
    (entry,) = read(tar)
    assert entry.sparse is not None
    assert entry.size_bytes < 50 << 15, "GNU tar stored no holes"
    assert unpacked(tar, entry) == (tmp_path / "f").read_bytes()


@pytest.mark.parametrize("form", sparse.FORMS)
@pytest.mark.parametrize(
    ("size_bytes", "extents", "stored", "message"),
    [
        (1000, [(500, 10), (0, 10)], 20, "overlap"),
        (1000, [(0, 10), (9, 10)], 20, "overlap"),
        (1000, [(0, 10), (995, 10)], 20, "overlap"),
        (1000, [(0, 10)], 20, "stores 20"),
        (1000, [(0, 10), (20, 10)], 10, "stores 10"),
        (1 << 50, [(0, 10)], 10, "number|apparent size"),
        (1000, [(-5, 10)], 10, "number|overlap"),
        (1000, [(0, -10), (20, 20)], 10, "number|overlap"),
    ],
)
def test_sparse_map_that_lies_is_refused(
    form: str, size_bytes: int, extents: list[tuple[int, int]], stored: int, message: str
) -> None:
    tar = sparse.member(
        form, "f", min(size_bytes, (1 << 33) - 1) if form == "old" else size_bytes, extents, b"x" * stored
    )
    if form == "old" and size_bytes == 1 << 50:
        block = bytearray(tar[:512])
        block[483:495] = b"\x80" + size_bytes.to_bytes(11, "big")
        tar = sparse.sealed(block) + tar[512:]
    with pytest.raises(UnacceptableError, match=message):
        read(tar)


@pytest.mark.parametrize(
    ("records", "content", "message"),
    [
        ([("GNU.sparse.map", "0,5"), ("GNU.sparse.numblocks", "2")], b"x" * 5, "another length"),
        ([("GNU.sparse.map", "0"), ("GNU.sparse.numblocks", "1")], b"x" * 5, "another length"),
        ([("GNU.sparse.map", "0,x"), ("GNU.sparse.numblocks", "1")], b"x" * 5, "not a number"),
        ([("GNU.sparse.offset", "0"), ("GNU.sparse.offset", "5")], b"", "bad sparse"),
        ([("GNU.sparse.numbytes", "0")], b"", "bad sparse"),
        ([("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")], b"", "cut off"),
        ([("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")], b"9" * 600, "cut off"),
        ([("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")], b"9999999\n".ljust(512), "extents"),
        ([("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")], b"1\n0\n".ljust(512, b"\0"), "number|cut off"),
    ],
)
def test_malformed_sparse_list_is_refused(records: list[tuple[str, str]], content: bytes, message: str) -> None:
    body = layers.tar([layers.file("f", content)])
    with pytest.raises(UnacceptableError, match=message):
        read(sparse.pax(records) + body)


def test_sparse_form_that_nobody_knows_is_an_ordinary_file_as_go_has_it() -> None:
    tar = sparse.pax([("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")]) + layers.tar([layers.file("f", b"x")])
    (entry,) = read(tar)
    assert (entry.sparse, entry.size_bytes) == (None, 1)


def test_old_sparse_form_without_gnu_magic_is_refused() -> None:
    block = bytearray(sparse.member("old", "f", 10, [], b"")[:512])
    block[257:265] = b"ustar\x0000"
    with pytest.raises(UnacceptableError, match="GNU's form"):
        read(sparse.sealed(block))


def test_old_sparse_map_whose_continuation_is_missing_is_refused() -> None:
    with pytest.raises(UnacceptableError, match="cut off"):
        read(sparse.member("old", "f", 70_000, MANY, b"")[:700])


def test_sparse_directory_is_refused() -> None:
    tar = sparse.pax([("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")]) + layers.tar([layers.directory("d")])
    with pytest.raises(UnacceptableError, match="no file"):
        read(tar)
