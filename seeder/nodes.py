"""The node inventory: which agents of the site are alive, by their heartbeats. In memory, bounded, expiring."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from imagedist.errors import InputError, OverloadedError
from seeder.tracker.announce import packed
from seeder.tracker.peers import SITE, Place

MAX_NODES = 20_000
EXPIRY_SECONDS = 120.0
"""Four heartbeats of 30 s."""

_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")

_Short = Annotated[str, StringConstraints(max_length=256)]


class Heartbeat(BaseModel):
    """What an agent says of itself. Unknown keys are ignored: an agent may be a version ahead of its site."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = Field(default=1, ge=1)
    version: _Short = ""
    labels: dict[_Short, _Short] = Field(default={}, max_length=64)
    addresses: tuple[_Short, ...] = Field(default=(), max_length=16)
    peer_port: int | None = Field(default=None, ge=1, le=65535)
    """At which the agent lets peers in."""


@dataclass(frozen=True, slots=True)
class _Node:
    heartbeat: Heartbeat
    address: str
    seen_at: float


class Nodes:
    """The agents that were heard of lately, in the order of their last heartbeat."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._nodes: dict[str, _Node] = {}
        self._places: dict[bytes, Place] = {}

    def place_of(self, address: bytes) -> Place:
        """Where the node of this IP address (4 or 16 bytes) stands, by its labels ``zone`` and ``rack``."""
        return self._places.get(address, SITE)

    def beat(self, node_id: str, heartbeat: Heartbeat, address: str = "") -> None:
        """Remembers a node until its heartbeats stop.

        Args:
            address: from which it spoke.

        Raises:
            InputError: the ID is not one. OverloadedError: too many nodes.
        """
        if not _NODE_ID.match(node_id):
            raise InputError(f"invalid node ID {node_id[:140]!r}: expected up to 128 letters, digits, '.', '_', '-'")
        self._forget_expired()
        if node_id not in self._nodes and len(self._nodes) >= MAX_NODES:
            raise OverloadedError(f"no room for node {node_id}: {MAX_NODES} nodes are known already")
        self._nodes.pop(node_id, None)
        self._nodes[node_id] = _Node(heartbeat, address, self._clock())
        if address:
            self._places[packed(address)] = Place(heartbeat.labels.get("zone", ""), heartbeat.labels.get("rack", ""))

    def describe(self) -> list[dict[str, object]]:
        """One JSON object per living node, sorted by ID."""
        self._forget_expired()
        now = self._clock()
        return [
            {
                "id": node_id,
                "address": node.address,
                "seen_seconds_ago": round(now - node.seen_at, 1),
                **node.heartbeat.model_dump(mode="json", exclude={"format"}),
            }
            for node_id, node in sorted(self._nodes.items())
        ]

    def has(self, address: str, port: int) -> bool:
        """Whether a node lives that lets peers in there."""
        self._forget_expired()
        return any((node.address, node.heartbeat.peer_port) == (address, port) for node in self._nodes.values())

    def neighbours(self, of: str, port: int, count: int) -> list[tuple[str, int]]:
        """Address and peer port of some nodes by chance, but of the one that asks."""
        self._forget_expired()
        others = [
            (node.address, node.heartbeat.peer_port)
            for node in self._nodes.values()
            if node.address and node.heartbeat.peer_port and (node.address, node.heartbeat.peer_port) != (of, port)
        ]
        return random.sample(others, min(count, len(others)))

    def _forget_expired(self) -> None:
        oldest = self._clock() - EXPIRY_SECONDS
        while self._nodes and next(iter(self._nodes.values())).seen_at < oldest:
            expired = self._nodes.pop(next(iter(self._nodes)))
            if expired.address:
                self._places.pop(packed(expired.address), None)


def add_node_routes(app: web.Application, nodes: Nodes) -> None:
    """Adds ``PUT /site/v1/nodes/{id}`` (a heartbeat) and ``GET /site/v1/nodes``."""

    async def beat(request: web.Request) -> web.Response:
        try:
            heartbeat = Heartbeat.model_validate_json(await request.read())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            raise InputError(f"bad heartbeat: {where}: {first['msg']}") from error
        peer = request.transport.get_extra_info("peername") if request.transport else None
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        nodes.beat(request.match_info["id"], heartbeat, address)
        return web.Response(status=204)

    async def describe(request: web.Request) -> web.Response:
        return web.json_response({"format": 1, "nodes": nodes.describe()})

    app.add_routes([web.put("/site/v1/nodes/{id}", beat), web.get("/site/v1/nodes", describe)])
