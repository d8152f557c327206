"""What a node says of itself in each heartbeat, and what its site says of its nodes."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_NAMES = 200
"""Of images in one heartbeat; the count says how many there are."""

MAX_NAME_LENGTH = 512

_Short = Annotated[str, StringConstraints(max_length=256)]
_Name = Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)]


class _Shape(BaseModel):
    """Unknown keys are ignored: an agent may be a version ahead of its site, or behind."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Disk(_Shape):
    """The file system that a part of the node lies on, and what the part takes of it."""

    total_bytes: int = Field(ge=0)
    free_bytes: int = Field(ge=0)
    used_bytes: int = Field(default=0, ge=0)
    quota_bytes: int | None = Field(default=None, ge=0)


class Heartbeat(_Shape):
    """``PUT /site/v1/nodes/{id}``.

    Attributes:
        former_id: what it called itself before; from then on it is known by its new ID only.
        version: the agent's. versions: of what else matters there, by name.
        peer_port: at which the agent lets peers in.
        disks: ``blobs``, the cache of compressed blobs, and ``storage``, the unpacked layers.
        cached_blobs, unpacked_images: how many.
        image_names: of unpacked images, ``MAX_NAMES`` at most.
    """

    format: int = Field(default=1, ge=1)
    former_id: _Short = ""
    version: _Short = ""
    versions: dict[_Short, _Short] = Field(default={}, max_length=16)
    labels: dict[_Short, _Short] = Field(default={}, max_length=64)
    addresses: tuple[_Short, ...] = Field(default=(), max_length=16)
    peer_port: int | None = Field(default=None, ge=1, le=65535)
    disks: dict[_Short, Disk] = Field(default={}, max_length=8)
    cached_blobs: int = Field(default=0, ge=0)
    unpacked_images: int = Field(default=0, ge=0)
    image_names: tuple[_Name, ...] = Field(default=(), max_length=MAX_NAMES)


class NodeStatus(Heartbeat):
    """A node as the site knows it.

    Attributes:
        address: from which it spoke last.
        is_gone: its heartbeats have stopped. is_paused: no preheat gives it work.
    """

    id: str
    address: str = ""
    seen_seconds_ago: float
    is_gone: bool = False
    is_paused: bool = False


class NodeList(_Shape):
    """``GET /site/v1/nodes``, sorted by ID."""

    format: int = 1
    nodes: tuple[NodeStatus, ...]


class NodeOrder(_Shape):
    """``PATCH /site/v1/nodes/{id}``; answered by ``NodeStatus``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    is_paused: bool
