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
    """One node's blobs. Seconds from the moment all nodes began to ask: to its first byte, to its last.

    ``asked_again``: for a blob that was refused.
    """

    first_byte_seconds: float
    seconds: float
    asked_again: int = 0


def pull(nodes: Sequence[Node], urls: Sequence[str], stall_seconds: float, asks: int = 1) -> list[Pulled]:
    """Every node asks for every URL at once, on a connection each; requests leave within milliseconds.

    Args:
        stall_seconds: the longest time in which nobody gets a byte.
        asks: how often for a blob, if the answer is an error; the time goes on.

    Raises:
        ImagedistError: a node did not get the whole of everything.
    """
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        tallies = [Tally() for _ in nodes]
        connections: list[list[Connection]] = []

        def connect(number: int, url: str, ask: int) -> Connection:
            with nodes[number].namespace.entered():
                connection = Connection(url, tallies[number])
            stack.enter_context(connection.socket)
            selector.register(connection.socket, selectors.EVENT_READ, (number, connection, url, ask))
            return connection

        for number in range(len(nodes)):
            connections.append([connect(number, url, 1) for url in urls])
        began = time.perf_counter()
        for connection in chain(*connections):
            connection.start()
        first, last, again = [0.0] * len(nodes), [0.0] * len(nodes), [0] * len(nodes)
        while selector.get_map():
            ready = selector.select(stall_seconds)
            if not ready:
                missing = {nodes[key.data[0]].name for key in selector.get_map().values()}
                raise ImagedistError(f"nothing came for {stall_seconds:.0f} s: {', '.join(sorted(missing))} wait")
            for key, _ in ready:
                number, connection, url, ask = key.data
                try:
                    is_over = connection.receive()
                except OSError as error:
                    if connection.is_answered or ask >= asks:
                        raise ImagedistError(f"{nodes[number].name} did not get a whole blob: {error}") from error
                    selector.unregister(key.fileobj)
                    connect(number, url, ask + 1).start()
                    again[number] += 1
                    continue
                now = time.perf_counter() - began
                if not first[number] and tallies[number].body_bytes:
                    first[number] = now
                if is_over:
                    last[number] = now
                    selector.unregister(key.fileobj)
    return [Pulled(*figures) for figures in zip(first, last, again, strict=True)]
