"""The session interface: what the agent and the seeder ask of a BitTorrent implementation.

``libtorrent_session`` is the real one, ``memory_session`` the twin; one contract test runs on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imagedist.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class TransferStatus:
    """One torrent at one moment. Bytes are payload bytes; rates are bytes per second."""

    digest: Digest
    size_bytes: int
    present_bytes: int
    is_complete: bool
    peers: int
    seeds: int
    download_rate: int
    upload_rate: int
    uploaded_bytes: int
    received_bytes: Mapping[str, int]
    """By source: ``peer``, ``seeder``, ``webseed``; ``disk`` is what an earlier process had left."""
    downloaded_bytes: int = 0
    """All that came from anybody, verified or not; libtorrent's rates go on for ten seconds after the last byte."""
    is_introduced: bool = True
    """Whether a tracker has answered or failed, so that peers could be known."""
    known_peers: int = 0
    """Of whom it was told, connected or not."""

    @property
    def is_alone(self) -> bool:
        """There is nobody, and nobody to wait for."""
        return not self.peers and not self.known_peers and self.is_introduced


class Transfer(Protocol):
    """One torrent in a session."""

    @property
    def digest(self) -> Digest: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def piece_length(self) -> int: ...

    def status(self) -> TransferStatus: ...

    async def piece(self, index: int) -> bytes:
        """Waits until the piece's own hash matched, then reads it from the session, never from the file.

        Raises:
            SourceError: the transfer was removed or the session failed.
        """

    async def wait_complete(self) -> None:
        """Returns when every piece is verified and flushed: only now the file may be trusted.

        Raises:
            SourceError: the transfer was removed or failed. StorageError: the disk failed.
        """

    async def give(self, index: int, content: bytes) -> bool:
        """A piece that came another way. Whether it is here now: kept is what matches the piece's own hash.

        Raises:
            SourceError: the transfer was removed or failed. StorageError: the disk failed.
        """

    def set_web_seed(self, url: str | None) -> None:
        """Adds the proxy's web seed (BEP 19), or takes it off with None; what is there is kept."""


class SwarmSession(Protocol):
    """All torrents of one process."""

    async def add(
        self,
        torrent: bytes,
        directory: Path,
        *,
        trackers: Sequence[str] = (),
        seeding: bool = False,
        peers: Sequence[tuple[str, int]] = (),
    ) -> Transfer:
        """Adds the blob ``directory/<hex>``. What is there of the file is hashed, piece by piece, and kept if right.

        Adding a blob that is already there returns its transfer; trackers that it did not have are told of it now.

        Args:
            seeding: the file is complete and verified, do not hash it again.

        Raises:
            IntegrityError: not a torrent of ours (v2-only, private, one file named by a digest). StorageError.
        """

    def get(self, digest: Digest) -> Transfer | None: ...

    def transfers(self) -> Sequence[Transfer]: ...

    async def remove(self, digest: Digest) -> None:
        """Drops the torrent; the file stays. Returns after the session let go of it."""

    def set_limits(self, upload: int | None, download: int | None, connections: int | None = None) -> None:
        """Bytes per second over all torrents, on private and loopback networks too. None: no limit.

        Args:
            connections: to peers at once, of all torrents together; those beyond are closed. None: as before.
        """

    async def close(self) -> None: ...
