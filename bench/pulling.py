"""Clients on many nodes at once, in one process: each reads blobs over its own node's link and throws them away."""

from __future__ import annotations

import selectors
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain

from bench.load import Connection, Tally
from bench.network import Node
from imagedist.errors import ImagedistError


@dataclass(frozen=True, slots=True)
class Pulled:
    """One node's blobs. Seconds from the moment all nodes began to ask: to its first byte, to its last."""

    first_byte_seconds: float
    seconds: float


def pull(nodes: Sequence[Node], urls: Sequence[str], stall_seconds: float) -> list[Pulled]:
    """Every node asks for every URL at once, on a connection each; requests leave within milliseconds.

    Args:
        stall_seconds: the longest time in which nobody gets a byte.

    Raises:
        ImagedistError: a node did not get the whole of everything.
    """
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        tallies = [Tally() for _ in nodes]
        connections: list[list[Connection]] = [[] for _ in nodes]
        for number, node in enumerate(nodes):
            with node.namespace.entered():
                connections[number] = [Connection(url, tallies[number]) for url in urls]
            for connection in connections[number]:
                stack.enter_context(connection.socket)
                selector.register(connection.socket, selectors.EVENT_READ, (number, connection))
        began = time.perf_counter()
        for connection in chain(*connections):
            connection.start()
        first, last = [0.0] * len(nodes), [0.0] * len(nodes)
        while selector.get_map():
            ready = selector.select(stall_seconds)
            if not ready:
                missing = {nodes[key.data[0]].name for key in selector.get_map().values()}
                raise ImagedistError(f"nothing came for {stall_seconds:.0f} s: {', '.join(sorted(missing))} wait")
            for key, _ in ready:
                number, connection = key.data
                try:
                    is_over = connection.receive()
                except OSError as error:
                    raise ImagedistError(f"{nodes[number].name} did not get a whole blob: {error}") from error
                now = time.perf_counter() - began
                if not first[number] and tallies[number].body_bytes:
                    first[number] = now
                if is_over:
                    last[number] = now
                    selector.unregister(key.fileobj)
    return [Pulled(*times) for times in zip(first, last, strict=True)]
