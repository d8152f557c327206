"""What is said over the agent's Unix socket: frozen shapes with a format version."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from imagedist.swarm.session import TransferStatus

FORMAT = 1


class PullRequest(BaseModel):
    """``POST /v1/pull``; answered by a stream of ``progress.Event`` lines (application/x-ndjson)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    reference: str
    platform: str | None = None


class AgentStatus(BaseModel):
    """``GET /v1/agent``."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    version: str
    mirror: str
    storage_root: str
    site_proxies: tuple[str, ...]
    site_seeders: tuple[str, ...]
    received_bytes: dict[str, int]


class TransferRow(BaseModel):
    """One torrent of this node."""

    model_config = ConfigDict(frozen=True)

    digest: str
    size_bytes: int
    present_bytes: int
    is_complete: bool
    peers: int
    seeds: int
    download_rate: int
    upload_rate: int
    uploaded_bytes: int
    received_bytes: dict[str, int]

    @classmethod
    def of(cls, status: TransferStatus) -> TransferRow:
        return cls(
            digest=str(status.digest),
            size_bytes=status.size_bytes,
            present_bytes=status.present_bytes,
            is_complete=status.is_complete,
            peers=status.peers,
            seeds=status.seeds,
            download_rate=status.download_rate,
            upload_rate=status.upload_rate,
            uploaded_bytes=status.uploaded_bytes,
            received_bytes=dict(status.received_bytes),
        )


class Transfers(BaseModel):
    """``GET /v1/transfers``."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    transfers: tuple[TransferRow, ...]
