"""The extension in C does what the Python does, to the byte: entries, errors, files, tar-split."""

from __future__ import annotations

import errno
import gzip
import os
import random
import resource
import signal
import tempfile
from dataclasses import astuple
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagedist.unpack import extension
from imagedist.unpack.entries import BLANK, BLOCK_BYTES, entries
from imagedist.unpack.extract import extract_layer
from imagedist.unpack.limits import DEFAULTS, Limits
from tests.golden.cases import CASES
from tests.hostile.corpus import corpus
from tests.support import layers
from tests.support.counts import count
from tests.support.extension import both
from tests.support.layers import Member, directory, file, hardlink, symlink, whiteout
from tests.support.sparse import sealed
from tests.unpack.test_arriving import arriving, snapshot

compiled = extension.compiled
_LONG_BYTES = 1 << 20
pytestmark = pytest.mark.skipif(compiled is None, reason="installed without a C compiler")

_PLAIN = layers.tar([file("usr/share/doc/f", b"content", mode=0o4755, uid=1, gid=2)])[:BLOCK_BYTES]
_NUMBERS = [b"", b"0", b"7", b" 644 ", b"0000644\0", b"\0\0 17", b"644 \0junk", b"8", b"1_0", b"-1", b"\x80\0\0\x01"]
_NUMBERS += [b"7" * 12, b"77777777 ", b"1 2", b"\0", b"\xff" * 12, b"17\0 ", b"000001000000"]
_NAMES = [
    b"",
    b"f",
    b"/f",
    b"f/",
    b"d//f",
    b"./f",
    b"..",
    b"a/../b",
    b".wh.x",
    b"caf\xe9",
    b"\xc3\xbc",
    b'q"\\',
    b"\x7f",
]
_NAMES += [b"n" * 100, b"a\0b", b"\0", b"\n", b" "]
_FIELDS = {
    0: (100, _NAMES),
    100: (8, _NUMBERS),
    108: (8, _NUMBERS),
    116: (8, _NUMBERS),
    124: (12, [*_NUMBERS, b"00000000007\0"]),
    136: (12, _NUMBERS),
    156: (1, [b"0", b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"\0", b"x", b"L", b"S", b"Q"]),
    157: (100, _NAMES),
    257: (8, [b"ustar\00000", b"ustar  \0", b"", b"ustar\0  "]),
    345: (155, _NAMES),
}
_CHANGES = st.lists(
    st.one_of(
        *[
            st.tuples(
                st.just(place),
                st.sampled_from(values).map(lambda value, width=width: value.ljust(width, b"\0")[:width]),
            )
            for place, (width, values) in _FIELDS.items()
        ],
        st.tuples(st.integers(0, BLOCK_BYTES - 1), st.binary(min_size=1, max_size=3)),
    ),
    max_size=4,
)


@pytest.mark.prove
@pytest.mark.timeout(count(120, 1800))
@settings(max_examples=count(1500, 50_000), deadline=None, derandomize=True)
@given(
    _CHANGES,
    st.sampled_from([b"unsigned", b"unsigned", b"as it is", b"padded"]),
    st.one_of(st.just(3584), st.integers(0, 3584)),
)
def test_headers_of_every_kind_give_the_same_entry_or_the_same_error(
    changes: list[tuple[int, bytes]], seal: bytes, cut: int
) -> None:
    header = bytearray(_PLAIN)
    for place, value in changes:
        header[place : place + len(value)] = value
    block = bytes(header[:BLOCK_BYTES])
    if seal != b"as it is":
        block = sealed(bytearray(block))
    if seal == b"padded":
        block = block[:148] + b" " + block[148:154].strip(b"\0 ").rjust(6, b"0") + b"\0" + block[156:]
    tar = (block + b"content".ljust(512, b"\0") + _PLAIN + bytes(2048))[:cut]
    compiled_entries, python_entries = both(lambda: list(entries(memoryview(tar))))
    assert compiled_entries == python_entries


def test_plain_header_is_read_in_c() -> None:
    assert compiled is not None
    entry = compiled.entry(_PLAIN, 1024, 2048, 3, BLANK)
    assert type(entry) is type(BLANK)
    assert (entry.name, entry.number, entry.offset, entry.end) == ("usr/share/doc/f", 3, 1536, 2048)
    assert entry == next(entries(memoryview(bytes(_PLAIN) + bytes(512))))._replace(number=3, offset=1536, end=2048)
    assert compiled.entry(_PLAIN[:-1], 1024, 2048, 3, BLANK) is None
    assert compiled.entry(_PLAIN, 1024, 1542, 3, BLANK) is None
    assert compiled.entry(_PLAIN, (1 << 63) - 1, (1 << 63) - 1, 3, BLANK) is None
    assert compiled.entry(_PLAIN, -1, 2048, 3, BLANK) is None


def test_wrong_arguments_are_type_errors() -> None:
    assert compiled is not None
    with pytest.raises(TypeError, match="no Entry"):
        compiled.entry(_PLAIN, 0, 2048, 0, (1, 2))
    with pytest.raises(TypeError, match="no pair"):
        compiled.create(0, "f", b"", 0o644, 7, 0)
    with pytest.raises(OverflowError, match="32 bits"):
        compiled.create(0, "f", b"", 0o644, (1 << 32, 0), 0)


_PATHS = [
    "f",
    "./g",
    "d/f",
    "d/g",
    "./d/h",
    "d/e/f",
    "d//f",
    "d/../d/f",
    "/d/k",
    "d/.",
    "d/caf\udce9",
    "d/\u00fc",
    'd/"',
    "s/f",
]
_PATHS += ["d/" + "n" * 64, "d/" + "n" * 250, "d/.wh..hidden", "d/e/" + "p" * 90 + "/" + "n" * 90]
_SIZES = [0, 1, 2, 3, 511, 512, 513, 5000, 100_000, 300_000]
_MEMBERS = st.one_of(
    st.builds(
        lambda path, size, mode, owner, mtime: file(
            path, b"c" * size, mode=mode, uid=owner[0], gid=owner[1], mtime=mtime
        ),
        st.sampled_from(_PATHS),
        st.sampled_from(_SIZES),
        st.sampled_from([0o644, 0o600, 0o4755, 0o1777, 0]),
        st.sampled_from([(0, 0), (0, 0), (1, 2), (65534, 0), (3_000_000, 0)]),
        st.sampled_from([layers.MTIME, 0, -1.5, 7.25, 9_000_000_000]),
    ),
    st.sampled_from(["d", "./d/", "d/e", "d/e/" + "p" * 90]).map(directory),
    st.just(symlink("s", "d")),
    st.just(hardlink("d/link", "d/f")),
    st.just(whiteout("d/gone")),
    st.just(file("d/x", b"attributes", pax={"SCHILY.xattr.user.note": "n"})),
)


@pytest.mark.root
@pytest.mark.prove
@pytest.mark.timeout(count(120, 1800))
@settings(max_examples=count(120, 5000), deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.lists(_MEMBERS, max_size=14), st.integers(0, 1000))
def test_layers_come_out_the_same_however_they_arrive(members: list[Member], seed: int) -> None:
    tar = layers.tar([directory("d"), *members])
    compiled_layer, python_layer = both(lambda: _extracted(tar, DEFAULTS, seed))
    assert compiled_layer == python_layer


@pytest.mark.root
def test_golden_and_hostile_layers_come_out_the_same() -> None:
    hostile = [stack for name, stack in corpus("/outside").items() if "hole of a petabyte" not in name]  # read for ever
    stacks = [*(case.tars() for case in CASES), *hostile]
    for tar in dict.fromkeys(tar for stack in stacks for tar in stack if len(tar) < _LONG_BYTES):
        compiled_layer, python_layer = both(partial(_extracted, tar, DEFAULTS))
        assert compiled_layer == python_layer


@pytest.mark.parametrize("limit", range(5))
def test_limit_of_entries_falls_on_the_same_entry(limit: int) -> None:
    tar = layers.tar([directory("d"), *[file(f"d/{number}", b"x") for number in range(4)]])
    compiled_layer, python_layer = both(lambda: _extracted(tar, Limits(entries=limit)))
    assert compiled_layer == python_layer
    assert "max_layer_entries" in str(compiled_layer)


def _extracted(tar: bytes, limits: Limits, seed: int | None = None) -> object:
    """Everything of a layer, and its tar-split. ``seed``: of how the tar arrives; None: at once."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        target = Path(scratch) / "layer"
        if seed is None:
            (Path(scratch) / "tar").write_bytes(tar)
            target.mkdir()
            layer = extract_layer(Path(scratch) / "tar", target, limits)
        else:
            layer = arriving(tar, target, random.Random(seed), limits)
        split = gzip.decompress((target / "tar-split.gz").read_bytes())
        return astuple(layer)[1:], snapshot(layer), split


def test_files_are_made_in_c_when_their_directory_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the comparisons above would compare the Python with itself."""
    assert compiled is not None
    made: list[int] = []

    class Counting:
        entry, create = compiled.entry, compiled.create

        @staticmethod
        def files(*arguments: object) -> tuple[int, int, int, list[bytes], bool]:
            answer: tuple[int, int, int, list[bytes], bool] = compiled.files(*arguments)
            made.append(len(answer[3]))
            return answer

    monkeypatch.setattr(extension, "compiled", Counting)
    arriving(layers.tar([file(f"d/{number}", b"x") for number in range(100)]), tmp_path / "layer", random.Random(4))
    assert sum(made) > 50


@pytest.mark.parametrize(
    ("name", "code"), [("there", errno.EEXIST), ("link", errno.EEXIST), ("n" * 256, errno.ENAMETOOLONG)]
)
def test_file_that_cannot_be_made_is_the_error_that_os_open_raises(tmp_path: Path, name: str, code: int) -> None:
    assert compiled is not None
    (tmp_path / "there").write_bytes(b"before")
    (tmp_path / "link").symlink_to("nowhere")
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError) as caught:
            compiled.create(root, name, b"x", 0o644, None, 0)
    finally:
        os.close(root)
    assert (caught.value.errno, caught.value.filename) == (code, name)
    assert sorted(os.listdir(tmp_path)) == ["link", "there"]
    assert (tmp_path / "there").read_bytes() == b"before"


def test_created_file_is_as_described(tmp_path: Path) -> None:
    assert compiled is not None
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        compiled.create(root, "caf\udce9", b"content", 0o600, None, -1_500_000_000)
        with pytest.raises(ValueError, match="null"):
            compiled.create(root, "a\0b", b"", 0o600, None, 0)
    finally:
        os.close(root)
    status = (tmp_path / "caf\udce9").stat()
    assert (tmp_path / "caf\udce9").read_bytes() == b"content"
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o600, -1_500_000_000)


def test_full_disk_is_an_os_error() -> None:
    """/dev/full would be opened, not made: a file size limit gives the same kind of error."""
    assert compiled is not None
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with tempfile.TemporaryDirectory() as scratch:
        root = os.open(scratch, os.O_RDONLY)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            with pytest.raises(OSError) as caught:
                compiled.create(root, "f", b"x" * 5000, 0o644, None, 0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
            os.close(root)
    assert caught.value.errno == errno.EFBIG
