"""What must hold for any bytes: only our own errors, no path that gets out, C and Python agree, the tar comes back."""

from __future__ import annotations

import tempfile
from pathlib import Path

from imagedist.errors import ImagedistError
from imagedist.unpack.decode import Chunk, decoder, in_order
from imagedist.unpack.entries import BLOCK_BYTES, entries
from imagedist.unpack.extract import extract_layer
from imagedist.unpack.limits import Limits
from imagedist.unpack.plan import Node, Plan, plan
from tests.golden.cases import CASES
from tests.hostile.corpus import corpus
from tests.support import layers
from tests.support.extension import both
from tests.support.sparse import sealed
from tests.support.tarsplit import reassembled

LIMITS = Limits(entries=1000, devices="skip")
_SEED_BYTES = 16 << 10
_DECODED_BYTES = 1 << 20
_WAYS = ("tar", "tar with right checksums", "gzip", "zstd")
_MAGIC = slice(257, 262)


class _FullError(ImagedistError):
    """As the stage says when a bomb decodes to more than is allowed."""


def check(data: bytes) -> None:
    """The first byte chooses what is fed with the rest."""
    way = _WAYS[data[0] % len(_WAYS)] if data else "tar"
    try:
        if way.startswith("tar"):
            _check_layer(_with_checksums(data[1:]) if way != "tar" else data[1:])
        else:
            _check_decoder(data[1:], way)
    except ImagedistError:
        pass


def seeds() -> list[bytes]:
    """Every golden and every hostile layer that is small, and compressed ones."""
    tars = [tar for case in CASES for tar in case.tars()]
    tars += [tar for hostile in corpus("/outside").values() for tar in hostile]
    small = [tar.rstrip(b"\0") + bytes(BLOCK_BYTES) for tar in dict.fromkeys(tars) if len(tar) <= _SEED_BYTES]
    plain = small[0] * 4
    packed = [b"\2" + layers.compress(plain, form) for form in ("gzip", "gzip members", "indexed gzip")]
    return [b"\1" + tar for tar in small] + packed + [b"\3" + layers.zstd_frames(plain, 512)]


def _check_layer(tar: bytes) -> None:
    compiled, python = both(lambda: list(entries(memoryview(tar), LIMITS)))
    assert compiled == python
    _check_plan(plan(entries(memoryview(tar), LIMITS), LIMITS))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        file, directory = Path(scratch, "tar"), Path(scratch, "layer")
        file.write_bytes(tar)
        directory.mkdir()
        extract_layer(file, directory, LIMITS)
        assert sorted(path.name for path in Path(scratch).iterdir()) == ["layer", "tar"]
        assert {path.name for path in directory.iterdir()} == {"diff", "tar-split.gz"}
        assert reassembled(directory) == tar


def _check_plan(planned: Plan) -> None:
    todo: list[Node] = [planned.root]
    while todo:
        node = todo.pop()
        for name, child in (node.children or {}).items():
            assert name not in ("", ".", "..")
            assert not set(name) & {"/", "\0"}
            todo.append(child)
    for path in (*(one.path for one in planned.whiteouts), *(one.target for one in planned.lower_links)):
        assert ".." not in path.split("/")
        assert not path.startswith("/")


def _check_decoder(blob: bytes, compression: str) -> None:
    decoded = 0

    def sink(plain: Chunk) -> None:
        nonlocal decoded
        decoded += len(plain)
        if decoded > _DECODED_BYTES:
            raise _FullError("full")

    decoding = decoder(compression, in_order(sink), "a fuzzed layer")
    for start in range(0, len(blob), 100):
        decoding.feed(blob[start : start + 100])
    decoding.finish()


def _with_checksums(tar: bytes) -> bytes:
    """Else nearly every change of a header would end at its checksum."""
    blocks = [tar[start : start + BLOCK_BYTES] for start in range(0, len(tar), BLOCK_BYTES)]
    return b"".join(
        sealed(bytearray(block)) if block[_MAGIC] == b"ustar" and len(block) == 512 else block for block in blocks
    )
