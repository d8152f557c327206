"""A peer that takes one blob from one node, again and again, as fast as it is given: ``python -m bench.leeching``."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from imagedist.config import Address, parse_address
from imagedist.swarm.libtorrent_session import LibtorrentSession
from imagedist.swarm.torrent import parse


async def leech(torrent: bytes, address: str, peer: Address, directory: Path) -> None:
    """For ever. Nothing is kept."""
    digest = parse(torrent).digest
    session = await LibtorrentSession.open(Address(address, 6883))
    try:
        while True:
            transfer = await session.add(torrent, directory, peers=[peer])
            await transfer.wait_complete()
            await session.remove(digest)
            (directory / digest.hex).unlink()
    finally:
        await session.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("torrent", type=Path)
    parser.add_argument("address", help="its own")
    parser.add_argument("peer", type=parse_address)
    parser.add_argument("directory", type=Path)
    given = parser.parse_args()
    asyncio.run(leech(given.torrent.read_bytes(), given.address, given.peer, given.directory))


if __name__ == "__main__":
    main()
