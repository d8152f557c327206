"""The node inventory: which agents the site has, by their heartbeats; which are gone, which are paused. Bounded.

It lies in memory, as every announce asks it; ``seeder/node_rows.py`` keeps it over restarts.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from imagedist.config import NODE_NAME
from imagedist.errors import InputError, NotFoundError, OverloadedError
from imagedist.nodes import Heartbeat, NodeStatus
from seeder.tracker.announce import packed
from seeder.tracker.peers import SITE, Place

MAX_NODES = 20_000
GONE_SECONDS = 120.0
"""Eight heartbeats of 15 s."""
FORGET_SECONDS = 30 * 86400.0
_SAVE_SECONDS = 60.0
"""A row is written anew when it is older; what came since is in the next heartbeat, too."""

_NODE_ID = re.compile(NODE_NAME)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it was heard of last. ``seen_at``: seconds since the epoch."""

    id: str
    heartbeat: Heartbeat
    address: str
    seen_at: float
    is_paused: bool = False


@dataclass(slots=True)
class _Known:
    node: Node
    heard_at: float
    """By the monotonic clock: what counts for being gone."""
    saved_at: float | None = None
    """Seen when its row was written last; None: it has to be."""
    address_before: str = ""
    is_doubtful: bool = False
    """It was said that there may be two of that name."""


def _heard(known: _Known | None, node: Node, now: float) -> _Known:
    """A node that speaks from two addresses by turns is two nodes, most likely: cloned machines of one name."""
    if known is None:
        return _Known(node, now)
    before = known.node.address
    has_moved = node.address != before
    heard = _Known(node, now, known.saved_at, before if has_moved else known.address_before, known.is_doubtful)
    if has_moved and node.address and node.address == known.address_before and not known.is_doubtful:
        heard.is_doubtful = True
        _LOG.warning(
            "node %s speaks from %s and %s by turns: if these are two hosts, the inventory and preheats take them for "
            "one; give each a name of its own (agent.name, or its host name)",
            node.id,
            before,
            node.address,
        )
    return heard


class Nodes:
    """The agents of the site.

    Args:
        gone_seconds: without a heartbeat for so long, a node is gone: nobody is sent to it, no preheat waits for it.
        forget_seconds: and after so long it is forgotten.
        clock: monotonic seconds. wall: seconds since the epoch. Both injected by tests.
    """

    def __init__(
        self,
        gone_seconds: float = GONE_SECONDS,
        forget_seconds: float = FORGET_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._gone_seconds = gone_seconds
        self._forget_seconds = forget_seconds
        self._clock = clock
        self._wall = wall
        self._living: dict[str, _Known] = {}  # in the order of their last heartbeats
        self._gone: dict[str, _Known] = {}  # likewise
        self._places: dict[bytes, Place] = {}
        self._forgotten: set[str] = set()
        self.changed: list[Callable[[str], None]] = []
        """Told the ID of a node that came, went, was paused or has other labels."""

    def restore(self, nodes: Iterable[Node]) -> None:
        """Takes over what an earlier process knew. Who lived when it ended has the whole time to speak again."""
        nodes = sorted(nodes, key=lambda node: node.seen_at)
        newest = nodes[-1].seen_at if nodes else 0.0
        for node in nodes:
            is_gone = newest - node.seen_at > self._gone_seconds
            heard_at = self._clock() - (self._wall() - node.seen_at if is_gone else 0.0)
            (self._gone if is_gone else self._living)[node.id] = _Known(node, heard_at, node.seen_at)

    def take_over(self, nodes: Iterable[Node]) -> None:
        """What the seeder that led before has written: its pauses hold, and who is not in it and gone was forgotten."""
        rows = {node.id: node for node in nodes}
        for known in [*self._living.values(), *self._gone.values()]:
            row = rows.pop(known.node.id, None)
            if row is not None:
                is_changed = row.is_paused != known.node.is_paused
                known.node = replace(known.node, is_paused=row.is_paused)
                known.saved_at = row.seen_at
                if is_changed:
                    self._tell(known.node.id)
            elif known.node.id in self._gone and known.saved_at is not None:
                self._drop(known)
        self._forgotten.clear()
        for node in rows.values():
            self._gone[node.id] = _Known(node, self._clock() - max(self._wall() - node.seen_at, 0.0), node.seen_at)

    def place_of(self, address: bytes) -> Place:
        """Where the node of this IP address (4 or 16 bytes) stands, by its labels ``zone`` and ``rack``."""
        return self._places.get(address, SITE)

    def beat(self, node_id: str, heartbeat: Heartbeat, address: str = "") -> None:
        """Remembers what a node says of itself.

        Args:
            address: from which it spoke.

        Raises:
            InputError: the ID is not one. OverloadedError: too many nodes.
        """
        if not _NODE_ID.fullmatch(node_id):
            raise InputError(f"invalid node ID {node_id[:140]!r}: expected up to 128 letters, digits, '.', '_', '-'")
        self._expire()
        former = self._renamed(heartbeat.former_id, node_id, address)
        living = self._living.pop(node_id, None)
        known = living or self._gone.pop(node_id, None)
        if known is None and len(self._living) + len(self._gone) >= MAX_NODES:
            raise OverloadedError(
                f"no room for node {node_id}: {MAX_NODES} nodes are known already; forget those that are gone"
            )
        before = known.node if known is not None else None
        is_paused = any(each is not None and each.is_paused for each in (before, former))
        heard = _heard(known, Node(node_id, heartbeat, address, self._wall(), is_paused), self._clock())
        if former is not None:
            heard.saved_at = None
        self._living[node_id] = heard
        self._forgotten.discard(node_id)
        if address:
            self._places[packed(address)] = Place(heartbeat.labels.get("zone", ""), heartbeat.labels.get("rack", ""))
        if living is None or before is None or before.heartbeat.labels != heartbeat.labels:
            self._tell(node_id)

    def pause(self, node_id: str, is_paused: bool) -> NodeStatus:
        """Whether preheats leave the node alone. Raises NotFoundError: there is no such node."""
        known = self._find(node_id)
        known.node = replace(known.node, is_paused=is_paused)
        known.saved_at = None
        self._tell(node_id)
        return self._status(known)

    def forget(self, node_id: str) -> None:
        """As if it had never been there; it is again with its next heartbeat. Raises NotFoundError."""
        self._drop(self._find(node_id))

    def get(self, node_id: str) -> Node | None:
        known = self._living.get(node_id) or self._gone.get(node_id)
        return known.node if known is not None else None

    def lives(self, node_id: str) -> bool:
        return node_id in self._living

    def seen_seconds_ago(self, node_id: str) -> float:
        """Raises NotFoundError."""
        return max(self._clock() - self._find(node_id).heard_at, 0.0)

    def all(self) -> list[tuple[Node, bool]]:
        """Every node, sorted by ID, and whether it is gone."""
        self._expire()
        found = [(known.node, False) for known in self._living.values()]
        found += [(known.node, True) for known in self._gone.values()]
        return sorted(found, key=lambda each: each[0].id)

    def describe(self) -> list[NodeStatus]:
        """Every node, sorted by ID."""
        self._expire()
        known = [*self._living.values(), *self._gone.values()]
        return sorted((self._status(each) for each in known), key=lambda status: status.id)

    def has(self, address: str, port: int) -> bool:
        """Whether a node lives that lets peers in there."""
        self._expire()
        return any(_peer(known.node) == (address, port) for known in self._living.values())

    def neighbours(self, of: str, port: int, count: int) -> list[tuple[str, int]]:
        """Address and peer port of some living nodes by chance, but of the one that asks."""
        self._expire()
        peers = (_peer(known.node) for known in self._living.values())
        others = [(host, number) for host, number in peers if host and number and (host, number) != (of, port)]
        return random.sample(others, min(count, len(others)))

    def take_unsaved(self) -> tuple[list[Node], list[str]]:
        """The nodes whose rows are to be written, and the IDs whose rows are to go. Taken, they count as done."""
        self._expire()
        unsaved = []
        for known in (*self._living.values(), *self._gone.values()):
            if known.saved_at is None or known.node.seen_at - known.saved_at >= _SAVE_SECONDS:
                known.saved_at = known.node.seen_at
                unsaved.append(known.node)
        forgotten, self._forgotten = sorted(self._forgotten), set()
        return unsaved, forgotten

    def give_back(self, unsaved: Iterable[Node], forgotten: Iterable[str]) -> None:
        """What was taken could not be written."""
        for node in unsaved:
            if (known := self._living.get(node.id) or self._gone.get(node.id)) is not None:
                known.saved_at = None
        self._forgotten.update(node_id for node_id in forgotten if self.get(node_id) is None)

    def _renamed(self, former_id: str, node_id: str, address: str) -> Node | None:
        """What was known of a node by the name that it had before; forgotten from now on. None: nothing.

        Only of one that spoke from the same address: two hosts of one name have one former name, too.
        """
        known = self._living.get(former_id) or self._gone.get(former_id)
        if known is None or former_id == node_id or known.node.address != address:
            return None
        self._drop(known)
        _LOG.info("node %s calls itself %s now", former_id, node_id)
        return known.node

    def _find(self, node_id: str) -> _Known:
        known = self._living.get(node_id) or self._gone.get(node_id)
        if known is None:
            raise NotFoundError(f"no node {node_id[:140]} in the site's inventory: see `imagedist nodes`")
        return known

    def _status(self, known: _Known) -> NodeStatus:
        node = known.node
        return NodeStatus(
            id=node.id,
            address=node.address,
            seen_seconds_ago=round(self.seen_seconds_ago(node.id), 1),
            is_gone=node.id in self._gone,
            is_paused=node.is_paused,
            **dict(node.heartbeat),
        )

    def _expire(self) -> None:
        oldest = self._clock() - self._gone_seconds
        while self._living and (known := next(iter(self._living.values()))).heard_at < oldest:
            del self._living[known.node.id]
            self._gone[known.node.id] = known
            self._places.pop(packed(known.node.address), None) if known.node.address else None
            self._tell(known.node.id)
        oldest = self._clock() - self._forget_seconds
        while self._gone and (known := next(iter(self._gone.values()))).heard_at < oldest:
            self._drop(known)

    def _drop(self, known: _Known) -> None:
        node_id = known.node.id
        self._living.pop(node_id, None)
        self._gone.pop(node_id, None)
        if known.node.address:
            self._places.pop(packed(known.node.address), None)
        self._forgotten.add(node_id)
        self._tell(node_id)

    def _tell(self, node_id: str) -> None:
        for told in self.changed:
            told(node_id)


def _peer(node: Node) -> tuple[str, int | None]:
    return node.address, node.heartbeat.peer_port
