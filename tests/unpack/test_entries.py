from __future__ import annotations

import io
import tarfile

import pytest

from imagedist.errors import UnacceptableError
from imagedist.unpack.entries import Entry, entries
from imagedist.unpack.limits import Limits
from tests.support import layers
from tests.support.sparse import sealed

LONG = "/".join(["directory-with-a-long-name"] * 10) + "/file"


def read(tar: bytes) -> list[Entry]:
    return list(entries(memoryview(tar)))


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_entries_are_what_tarfile_reads(format: int) -> None:
    tar = layers.tar(
        [
            layers.directory("d/", 0o1777, uid=3, gid=4),
            layers.file("d/f", b"content", mode=0o4755),
            layers.file(LONG, b"x" * 513),
            layers.symlink("s", LONG),
            layers.hardlink("h", "d/f"),
            layers.fifo("p"),
            layers.character_device("null", 1, 3),
            layers.file("big-owner", uid=3_000_000, gid=4_000_000_000 if format == tarfile.GNU_FORMAT else 5),
            layers.file("ünïcode", b"u"),
        ],
        format,
    )
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        expected = [
            (one.name, one.type, one.mode, one.uid, one.gid, one.mtime * 10**9, one.size, one.linkname)
            for one in archive.getmembers()
        ]
    found = read(tar)
    assert [
        (one.name.rstrip("/"), one.kind, one.mode, one.uid, one.gid, one.mtime_ns, one.size_bytes, one.link)
        for one in found
    ] == expected
    assert found[6].device == (1, 3)
    assert tar[found[2].offset :][: found[2].size_bytes] == b"x" * 513


def test_pax_records_give_fractions_of_seconds_and_xattrs() -> None:
    (entry,) = read(
        layers.tar([layers.file("f", pax={"mtime": "1700000000.123456789", "SCHILY.xattr.user.note": "a=b\nc"})])
    )
    assert entry.mtime_ns == 1_700_000_000_123_456_789
    assert entry.xattrs == {"user.note": b"a=b\nc"}


def test_time_before_1970_is_negative() -> None:
    (entry,) = read(layers.tar([layers.file("f", mtime=-1.5)]))
    assert entry.mtime_ns == -1_500_000_000


def test_ustar_prefix_is_part_of_the_name() -> None:
    (entry,) = read(layers.tar([layers.file("p" * 90 + "/" + "n" * 90)], tarfile.USTAR_FORMAT))
    assert entry.name == "p" * 90 + "/" + "n" * 90


def test_archive_may_end_without_zero_blocks() -> None:
    tar = layers.tar([layers.file("f", b"x" * 512)])
    assert [entry.name for entry in read(tar[:1024])] == ["f"]


def test_empty_tar_has_no_entries() -> None:
    assert read(b"") == read(bytes(1024)) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tar: tar[:700], "cut off inside 'f'"),
        (lambda tar: tar[:300], "cut off inside the header"),
        (lambda tar: b"g" + tar[1:], "checksum"),
        (lambda tar: sealed(bytearray(tar[:124] + b"99999999999\0" + tar[136:512])), "not a number"),
        (lambda tar: sealed(bytearray(tar[:124] + b"0000000-100\0" + tar[136:512])), "not a number"),
        (lambda tar: sealed(bytearray(tar[:124] + b"0000000_100\0" + tar[136:512])), "not a number"),
        (lambda tar: tar[:1024] + bytes(512) + tar[:1024], "lone block"),
        (lambda tar: sealed(bytearray(tar[:156] + b"Q" + tar[157:512])), "unknown tar type"),
        (lambda tar: sealed(bytearray(tar[:124] + b"\xff" * 12 + tar[136:512])), "no file can have"),
        (lambda tar: sealed(bytearray(tar[:124] + b"77777777777\0" + tar[136:156] + b"x" + tar[157:512])), "extended"),
    ],
)
def test_damaged_tar_is_refused(damage: object, message: str) -> None:
    tar = layers.tar([layers.file("f", b"x" * 512)])
    assert callable(damage)
    with pytest.raises(UnacceptableError, match=message):
        read(damage(tar))


@pytest.mark.parametrize("body", [b"5 a=b\n", b"x a=b\n", b"6 a=b", b"99 a=b\n", b"6 abc\n"])
def test_malformed_pax_record_is_refused(body: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(body)
    tar = header.tobuf(tarfile.USTAR_FORMAT) + body.ljust(512, b"\0") + layers.tar([layers.file("f")])
    with pytest.raises(UnacceptableError, match="pax"):
        read(tar)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (layers.file("f", pax={"path": "d/" * 3000 + "f"}), "4096"),
        (layers.symlink("s", "t/" * 3000), "4096"),
        (layers.file("f", pax={"path": "f\0g"}), "NUL"),
        (layers.symlink("s", "x", pax={"linkpath": "a\0b"}), "NUL"),
        (layers.file("f", pax={"SCHILY.xattr.user.a\0b": "x"}), "NUL"),
        (layers.character_device("d", 4096, 0), "device"),
        (layers.character_device("d", 0, 1 << 20), "device"),
    ],
)
def test_what_no_file_can_have_is_refused(member: layers.Member, message: str) -> None:
    with pytest.raises(UnacceptableError, match=message):
        read(layers.tar([member]))


def extension(kind: bytes, body: bytes) -> bytes:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, len(body)
    return header.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)


def test_many_extended_headers_for_one_entry_are_refused_before_they_fill_the_memory() -> None:
    body = b"600012 comment=" + b"x" * 599_996 + b"\n"
    assert len(body) == 600_012
    with pytest.raises(UnacceptableError, match="extended header"):
        read(extension(tarfile.XHDTYPE, body) * 2 + layers.tar([layers.file("f")]))
    assert len(read((extension(tarfile.XHDTYPE, body) + layers.tar([layers.file("f")])[:512]) * 2)) == 2


@pytest.mark.parametrize(
    ("xattrs", "message"),
    [
        ({f"user.{number}": "x" for number in range(200)}, "128 xattrs"),
        ({"user.big": "x" * 70_000}, "70008 bytes"),
        ({"user." + "n" * 300: "x"}, "255 bytes"),
    ],
)
def test_xattrs_beyond_what_linux_keeps_are_refused(xattrs: dict[str, str], message: str) -> None:
    with pytest.raises(UnacceptableError, match=message):
        read(layers.tar([layers.file("f", pax={f"SCHILY.xattr.{name}": value for name, value in xattrs.items()})]))


def test_more_entries_than_configured_are_refused() -> None:
    tar = layers.tar([layers.file("a"), layers.file("b")])
    assert len(list(entries(memoryview(tar), Limits(entries=2)))) == 2
    with pytest.raises(UnacceptableError, match="max_layer_entries"):
        list(entries(memoryview(tar), Limits(entries=1)))


def test_last_of_several_extended_headers_counts_and_long_names_win_as_in_go() -> None:
    pax = [extension(tarfile.XHDTYPE, b"10 path=%d\n" % number) for number in (1, 2)]
    file = layers.tar([layers.file("f")])
    assert [entry.name for entry in read(b"".join(pax) + file)] == ["2"]
    assert [entry.name for entry in read(extension(tarfile.GNUTYPE_LONGNAME, b"long\0") + pax[0] + file)] == ["long"]


def test_empty_records_leave_the_header_as_it_is() -> None:
    (entry,) = read(extension(tarfile.XHDTYPE, b"8 path=\n9 mtime=\n7 uid=\n") + layers.tar([layers.file("f")]))
    assert (entry.name, entry.mtime_ns) == ("f", layers.MTIME * 10**9)


@pytest.mark.parametrize(("kind", "is_directory"), [(b"\0", True), (b"0", False)])
def test_slash_at_the_end_names_a_directory_in_tars_before_ustar_only(kind: bytes, is_directory: bool) -> None:
    header = bytearray(layers.tar([layers.file("f/")])[:512])
    header[156:157] = kind
    (entry,) = read(sealed(header))
    assert entry.is_directory is is_directory


def test_checksum_of_signed_bytes_is_good_too() -> None:
    header = bytearray(layers.tar([layers.file("\udce9")], tarfile.GNU_FORMAT)[:512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in header)
    (entry,) = read(bytes(header))
    assert entry.name == "\udce9"


def test_global_header_is_left_out() -> None:
    (entry,) = read(extension(tarfile.XGLTYPE, b"12 uid=1000\n") + layers.tar([layers.file("f")]))
    assert entry.uid == 0
