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


class Transfers(BaseModel):
    """``GET /v1/transfers``."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    transfers: tuple[TransferStatus, ...]
