"""Builds blobs and their torrents for swarm tests."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

from imagedist.oci.digest import Digest
from imagedist.swarm import torrent
from imagedist.swarm.session import Transfer


@dataclass(frozen=True, slots=True)
class Blob:
    content: bytes
    digest: Digest
    torrent: bytes


def make_blob(directory: Path, size_bytes: int, seed: int = 1) -> Blob:
    """Writes ``directory/<hex>`` with reproducible random bytes and makes its torrent."""
    content = random.Random(seed).randbytes(size_bytes)
    digest = Digest.of(content)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / digest.hex
    path.write_bytes(content)
    return Blob(content, digest, torrent.build(path, digest))


def make_directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


async def any_piece(transfer: Transfer) -> None:
    """Returns when the first piece is there: they come in an order of libtorrent's own."""
    count = -(-transfer.size_bytes // transfer.piece_length)
    waiting = [asyncio.create_task(transfer.piece(index)) for index in range(count)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
