"""What a site answers a node: a torrent, or what to do while the blob arrives; what a purge did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

PRIVATE_HEADER = "X-Imagedist-Private"
"""Of an answer with a torrent: the blob is not for everyone."""
BLOB_TYPE = "application/octet-stream"
"""The media type of an answer that is the blob itself."""
ACTION_HEADER = "X-Imagedist-Action"
"""Of an answer with a torrent: ``stream`` to who is among the few that want the blob now."""


class Arriving(BaseModel):
    """The site is fetching the blob: its size, what is there, and what this node should do meanwhile."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    format: int = 1
    size_bytes: int = Field(alias="size", ge=0)
    present_bytes: int = Field(alias="present", default=0)
    action: Annotated[Literal["stream", "wait"], BeforeValidator(lambda told: told if told == "wait" else "stream")]
    """What only a newer site knows means stream: that always works."""
    is_swarm: bool = Field(alias="swarm", default=True)
    """Whether a torrent will follow; small and private blobs have none."""
    is_private: bool = Field(alias="private", default=False)
    """Whether whoever has the blob must ask the site before giving it on."""


class Purged(BaseModel):
    """What a purge did. ``tags``: how many were known, at all proxies together; ``proxies``: how many those are."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    upstream: str
    repository: str
    tag: str | None
    tags: int
    proxies: int


@dataclass(frozen=True, slots=True)
class SmallBlob:
    """The blob itself: it has no torrent, and an answer more would take longer than its bytes."""

    content: bytes
    is_private: bool = False


@dataclass(frozen=True, slots=True)
class FoundTorrent:
    """A blob's torrent.

    Attributes:
        is_private: whoever has the blob asks the site before giving it on.
        action: stream: hardly anybody else wants it now, so HTTP is faster; the swarm if that changes.
    """

    content: bytes
    is_private: bool = False
    action: Literal["stream", "swarm"] = "swarm"
