"""Images of bytes that a seeded generator gives: nothing compresses, or nothing but tiny files. The same everywhere."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.images import COMMAND, MADE_AT, in_parallel
from bench.layer import LayerTar
from imagedist.demo.layer import WrittenLayer
from imagedist.demo.layout import BuiltImage, built_once, write_image

_FORMAT = 1
_LAYERS = 4
_RANDOM_FILE_BYTES = 8_000_000
_TINY_BYTES = (16, 4000)
_DIRECTORY_FILES = 64
_WORDS = tuple(f"{a}{b}{c}" for a in "bdfklmprst" for b in "aeiou" for c in ("n", "r", "st", ""))

Files = Iterator[tuple[str, bytes]]
"""Name and content."""


def random_bytes(cache: Path, size_bytes: int) -> BuiltImage:
    """Four layers of files that no compressor makes smaller."""
    return _built(cache / f"random-{size_bytes}", size_bytes, _random_files)


def tiny_files(cache: Path, size_bytes: int) -> BuiltImage:
    """Four layers of text files of 16 to 4,000 bytes, 64 in a directory: what a file system is asked for, little else.

    Args:
        size_bytes: of all contents, uncompressed.
    """
    return _built(cache / f"files-{size_bytes}", size_bytes, _tiny_files)


def _random_files(source: random.Random, size_bytes: int) -> Files:
    number = 0
    while size_bytes > 0:
        content = source.randbytes(min(size_bytes, _RANDOM_FILE_BYTES))
        yield f"{number:05}", content
        size_bytes -= len(content)
        number += 1


def _tiny_files(source: random.Random, size_bytes: int) -> Files:
    text = " ".join(source.choices(_WORDS, k=100_000)).encode()
    number = 0
    while size_bytes > 0:
        length = source.randint(*_TINY_BYTES)
        begin = source.randrange(len(text) - length)
        yield f"{number // _DIRECTORY_FILES:05}/{number % _DIRECTORY_FILES:02}", text[begin : begin + length]
        size_bytes -= length
        number += 1


def _built(directory: Path, size_bytes: int, files: Callable[[random.Random, int], Files]) -> BuiltImage:
    def layer(fresh: Path, number: int) -> WrittenLayer:
        with LayerTar(fresh / f"{number}.layer") as archive:
            described: set[str] = set()
            for name, content in files(random.Random(number), size_bytes // _LAYERS):
                whole = f"opt/part{number}/{name}"
                for directory in _parents(whole):
                    if directory not in described:
                        described.add(directory)
                        archive.add(_entry(directory, tarfile.DIRTYPE, 0o755))
                entry = _entry(whole, tarfile.REGTYPE, 0o644)
                entry.size = len(content)
                archive.add(entry, io.BytesIO(content))
            return archive.finish()

    def write(fresh: Path) -> None:
        layers = in_parallel([partial(layer, fresh, number) for number in range(_LAYERS)])
        history = [f"imagedist-bench: {directory.name}, part {number}" for number in range(_LAYERS)]
        write_image(fresh, list(zip(history, layers, strict=True)), f"bench/{directory.name}:1", COMMAND)

    return built_once(directory, {"format": _FORMAT, "kind": directory.name, "layers": _LAYERS}, write)


def _parents(name: str) -> Iterator[str]:
    parts = name.split("/")
    for depth in range(1, len(parts)):
        yield "/".join(parts[:depth])


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, MADE_AT
    return entry
