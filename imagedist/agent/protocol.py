"""What is said over the agent's Unix socket: frozen shapes with a format version.

Plain dataclasses; pydantic reads them where an answer or an order is not ours to trust. Who is one minor version ahead
leaves out what is not set, and who is behind ignores fields of answers that it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from imagedist.swarm.session import TransferStatus

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """``POST /v1/pull``; answered by a stream of ``progress.Event`` lines (application/x-ndjson).

    An unknown field is refused: an order half understood would be carried out wrongly.
    """

    __pydantic_config__ = {"extra": "forbid"}

    format: int = FORMAT
    reference: str
    platform: str | None = None
    """None: the agent's own machine's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """``GET /v1/agent``."""

    format: int = FORMAT
    version: str
    mirror: str
    storage_root: str
    site_proxies: tuple[str, ...] = ()
    site_seeders: tuple[str, ...] = ()
    used_by: tuple[str, ...] = ()
    """Stores whose containers may use layers of ``storage_root``."""
    received_bytes: dict[str, int] = field(default_factory=dict)
    bittorrent: str = ""
    """``host:port`` at which peers are let in."""
    node_blobs: str = ""
    ramdisk: str = ""
    site_ca_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfers:
    """``GET /v1/transfers``."""

    format: int = FORMAT
    transfers: tuple[TransferStatus, ...]
