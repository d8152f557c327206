"""One decoder at work in a process of its own: inflates a file, hashes and writes what comes out, says what it took."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.peaks import anonymous_bytes
from imagedist.unpack.decode import decoder
from imagedist.unpack.pieces import Chunk, Pieces
from imagedist.unpack.spare import SpareCpus

_CHUNK_BYTES = 512 << 10
_WATCH_SECONDS = 0.005
_GZIP_WINDOW = 31


def main(way: str, compression: str, source: Path, target: Path) -> None:
    """Prints seconds, CPU seconds, the most anonymous memory, and the SHA-256 as a line of JSON.

    Args:
        way: ``engine`` (one CPU), ``engine+`` (idle ones too), ``zlib``, or ``rapidgzip-N`` with N threads.
    """
    output = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    hasher = hashlib.sha256()

    def write_at(offset: int, plain: Chunk) -> None:
        view = memoryview(plain)
        while view:
            written = os.pwrite(output, view, offset)
            view, offset = view[written:], offset + written

    run = _way(way, compression, source, Pieces(write_at, hasher), lambda spare: Pieces(write_at, hasher, spare))
    with _Watch() as watch:
        started, cpu_started = time.perf_counter(), time.process_time()
        run()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    os.close(output)
    told = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_anonymous_bytes": watch.peak_bytes}
    print(json.dumps({**told, "sha256": hasher.hexdigest()}))


def _way(
    way: str, compression: str, source: Path, alone: Pieces, beside: Callable[[SpareCpus], Pieces]
) -> Callable[[], None]:
    if way == "zlib":
        return lambda: _zlib(source, alone)
    if way.startswith("rapidgzip-"):
        return lambda: _rapidgzip(source, int(way.partition("-")[2]), alone)
    if way == "engine":
        return lambda: _engine(compression, source, alone, None)
    spare = SpareCpus(len(os.sched_getaffinity(0)))
    return lambda: _engine(compression, source, beside(spare), spare)


def _engine(compression: str, source: Path, pieces: Pieces, spare: SpareCpus | None) -> None:
    decoding = decoder(compression, pieces.add, str(source))
    for chunk in _chunks(source):
        if spare is None:
            decoding.feed(chunk)
        else:
            with spare.busy():
                decoding.feed(chunk)
    decoding.finish()
    pieces.settle()
    if spare is not None:
        spare.close()


def _zlib(source: Path, pieces: Pieces) -> None:
    inflate = zlib.decompressobj(_GZIP_WINDOW)
    for chunk in _chunks(source):
        _put(pieces, inflate.decompress(chunk))


def _rapidgzip(source: Path, threads: int, pieces: Pieces) -> None:
    from rapidgzip import RapidgzipFile

    with RapidgzipFile(str(source), threads) as file:
        while plain := file.read(_CHUNK_BYTES):
            _put(pieces, plain)


def _put(pieces: Pieces, plain: bytes) -> None:
    pieces.add(len(plain), lambda: plain)


def _chunks(source: Path) -> Iterator[bytes]:
    with source.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


class _Watch:
    """The most RssAnon of this process while its block runs."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_WATCH_SECONDS):
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes(os.getpid()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
