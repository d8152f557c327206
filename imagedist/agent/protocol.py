"""What is said over the agent's Unix socket: frozen shapes with a format version.

Plain dataclasses; pydantic reads them where an answer or an order is not ours to trust. Who is one minor version ahead
leaves out what is not set, and who is behind ignores fields of answers that it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

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
    site_client_certificate: str = ""
    site_client_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfers:
    """``GET /v1/transfers``."""

    format: int = FORMAT
    transfers: tuple[TransferStatus, ...]
    received_bytes: dict[str, int] = field(default_factory=dict)
    """By source, of everything since the agent's start: ``proxy`` (HTTP) besides those of a torrent."""
    is_quiet: bool = False
    given_bytes: int = 0
    """To peers, since the agent's start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsOrder:
    """``PATCH /v1/limits``; answered by ``Limits``. Rates as in agent.toml: ``200MiB/s``, ``none``.

    What is not named stays. An unknown field is refused, as in ``PullRequest``.
    """

    __pydantic_config__ = {"extra": "forbid"}

    format: int = FORMAT
    upload: str | None = None
    """``auto`` as well: half of the line."""
    download: str | None = None
    connections: int | None = None
    quiet: bool | None = None
    """True: quiet from now on. False: not quiet, whatever the machine's pressure."""
    reset: bool = False
    """First all back to what the file says, quiet mode by pressure included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One direction. Rates are bytes per second; None: no cap."""

    bytes_per_second: int | None
    source: Literal["default", "file", "command"]
    """``command``: until the agent ends."""
    file_bytes_per_second: int | None
    """What holds again after the agent's next start."""
    now_bytes_per_second: int
    """What flows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionsLimit:
    """Of connections to peers, of all torrents together; as ``Limit``."""

    at_most: int
    source: Literal["default", "file", "command"]
    file_at_most: int
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """Whether the node is in quiet mode, why, and what it gives at most while it is."""

    is_quiet: bool
    source: Literal["default", "file", "command", "pressure"]
    upload_bytes_per_second: int | None
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``GET /v1/limits``. ``upload``: to peers. ``download``: from peers and from the site's proxy, together.

    None: the agent is older than that.
    """

    format: int = FORMAT
    upload: Limit
    download: Limit
    connections: ConnectionsLimit | None = None
    quiet: Quiet | None = None
