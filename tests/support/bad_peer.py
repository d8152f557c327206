"""A peer that means no good: a seed of everything by its own account, of which nobody ever gets a right piece."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Literal, Self

from imagedist.swarm.torrent import TorrentFacts
from tests.support import wire
from tests.support.wire import Wire

Manner = Literal["corrupt", "silent", "stalling"]


class BadPeer:
    """Takes whoever dials it, each in a thread, until the block ends.

    Args:
        listening: where; a socket that listens, closed with the block.
        manner: ``corrupt``: answers requests with other bytes; ``silent``: takes the connection and says nothing;
            ``stalling``: greets, promises everything, and answers no request.

    Attributes:
        met: how many have dialled it.
        hung_up: how many of them ended it themselves.
        asked: requests for blocks that it got.
    """

    def __init__(self, listening: socket.socket, facts: TorrentFacts, manner: Manner) -> None:
        self._listening = listening
        self._facts = facts
        self._manner = manner
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._is_over = False
        self.met = self.hung_up = self.asked = 0

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listening.getsockname()[:2]
        return str(host), int(port)

    @property
    def is_alone(self) -> bool:
        """Whether everybody who came has left."""
        return self.hung_up == self.met

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._is_over = True
            for each in (self._listening, *self._open):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)  # wakes who waits in it
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                if self._is_over:
                    connected.close()
                    return
                self.met += 1
                self._open.add(connected)
                thread = threading.Thread(target=self._meet, args=(connected,))
                self._threads.append(thread)
                thread.start()

    def _meet(self, connected: socket.socket) -> None:
        with Wire(connected, timeout_seconds=300.0) as line:
            with contextlib.suppress(OSError):
                if self._manner == "silent":
                    line.hears_the_end()
                else:
                    self._greet(line)
                    while True:
                        self._answer(line, *line.hear_message())
            with self._lock:
                self._open.discard(connected)
                self.hung_up += not self._is_over

    def _greet(self, line: Wire) -> None:
        line.hear(wire.HANDSHAKE_BYTES)
        greeting = wire.handshake(self._facts.short_infohash)
        line.say(greeting, wire.have_all(self._facts.piece_count), wire.message(wire.UNCHOKE))

    def _answer(self, line: Wire, kind: int | None, payload: bytes) -> None:
        if kind == wire.HASH_REQUEST:
            line.say(wire.message(wire.HASH_REJECT, payload))
        elif kind == wire.REQUEST:
            self.asked += 1
            piece, start, size_bytes = struct.unpack(">III", payload)
            if self._manner == "corrupt":
                line.say(wire.message(wire.PIECE, struct.pack(">II", piece, start) + bytes(size_bytes)))
