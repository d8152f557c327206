"""A node in a process of its own, to be killed: brings one blob into DIRECTORY, and says where its session listens."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from imagedist.config import Address
from imagedist.distribution.backend import Target
from imagedist.fetch.node import NodeBlobs
from imagedist.oci.digest import Digest
from imagedist.swarm.libtorrent_session import LibtorrentSession
from tests.fetch.site import MemorySite


async def main(directory: Path, torrent: Path) -> None:
    session = await LibtorrentSession.open(Address("127.0.0.2", 0))
    site: Any = MemorySite([torrent.read_bytes()])
    blobs = NodeBlobs(directory, None, site, session, ())
    await blobs.start()
    opening = asyncio.create_task(blobs.open(Target("registry.example", "team/app"), Digest("sha256", torrent.stem)))
    while not session.transfers():  # noqa: ASYNC110  # nobody tells when
        await asyncio.sleep(0.01)
    print(session.address.port, flush=True)
    await opening
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
