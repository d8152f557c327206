"""Peers that announce, many of them in one process: ``python -m bench.announcing PORT INFOHASH …``. Prints JSON.

Each peer has a port of its own at one of a few loopback addresses. A tracker tells them apart by that alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import selectors
import socket
import time
from dataclasses import dataclass, field
from urllib.parse import quote

_CONNECT_SECONDS = 30.0
_STALL_SECONDS = 30.0
_ANSWER_BYTES = 16 << 10
_PEERS_PER_HOST = 4000
"""A tracker lets one host announce 5,000 torrents."""


@dataclass
class Announced:
    """What one run has seen.

    Attributes:
        answered: announces with peers or counts in the answer; ``refused`` the others, ``failed`` those without any.
        seconds: of each, from its request (from its connection, where each has one) to its answer's end.
    """

    answered: int = 0
    refused: int = 0
    failed: int = 0
    seconds: list[float] = field(default_factory=list)


def host_of(peer: int) -> str:
    return f"127.0.0.{2 + peer // _PEERS_PER_HOST}"


def request_of(infohash: bytes, peer: int, *, is_seed: bool, event: str, is_kept: bool) -> bytes:
    """As libtorrent asks: the same parameters and headers."""
    query = (
        f"info_hash={quote(infohash, safe='')}&peer_id=-IDn001-{peer:012d}&port={10_000 + peer % _PEERS_PER_HOST}"
        f"&uploaded=0&downloaded=0&left={0 if is_seed else 1 << 20}&corrupt=0&key={peer:08X}"
        f"{f'&event={event}' if event else ''}&numwant=50&compact=1&no_peer_id=1&supportcrypto=1&redundant=0"
    )
    end = "" if is_kept else "Connection: close\r\n"
    head = "Host: 127.0.0.1\r\nUser-Agent: imagedist\r\nAccept-Encoding: gzip\r\n"
    return f"GET /announce?{query} HTTP/1.1\r\n{head}{end}\r\n".encode()


class _Peer:
    """A connection; a peer's whole life without keep-alive, with it those of one host in turn."""

    def __init__(self, address: tuple[str, int], host: str) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((host, 0))
        self.socket.settimeout(_CONNECT_SECONDS)
        self.socket.connect(address)
        self.began = 0.0
        self._answer = b""

    def ask(self, request: bytes, began: float) -> None:
        self.began, self._answer = began, b""
        self.socket.sendall(request)

    def receive(self, tally: Announced) -> bool:
        """Whether the answer is whole."""
        part = self.socket.recv(_ANSWER_BYTES)
        self._answer += part
        head, end, body = self._answer.partition(b"\r\n\r\n")
        length = next((line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b"")
        if not part:
            raise ConnectionError("the tracker broke off")
        if not end or len(body) < int(length):
            return False
        tally.seconds.append(time.perf_counter() - self.began)
        if head.split(None, 2)[1] == b"200" and b"5:peers" in body:
            tally.answered += 1
        else:
            tally.refused += 1
        return True


def announce(
    address: tuple[str, int], infohash: bytes, peers: range, *, connections: int, seconds: float, is_kept: bool
) -> Announced:
    """Every peer announces in turn, ``connections`` of them at a time: once if ``seconds`` is 0, else until then.

    Args:
        is_kept: connections are used again. Real clients open one for each announce.

    Raises:
        OSError: the tracker cannot be reached, or says nothing any more.
    """
    tally, deadline = Announced(), time.perf_counter() + seconds
    by_host: dict[str, list[int]] = {}
    for peer in peers:
        by_host.setdefault(host_of(peer), []).append(peer)
    turns = {host: itertools.cycle(each) if seconds else iter(each) for host, each in by_host.items()}
    event = "" if seconds else "started"

    def next_request(host: str) -> bytes | None:
        peer = next(turns[host], None)
        if peer is None or (seconds and time.perf_counter() > deadline):
            return None
        return request_of(infohash, peer, is_seed=peer % 2 == 0, event=event, is_kept=is_kept)

    with selectors.DefaultSelector() as selector:

        def begin(host: str, known: _Peer | None) -> None:
            request = next_request(host)
            began = time.perf_counter()
            peer = known
            if peer is not None and (request is None or not is_kept):
                selector.unregister(peer.socket)
                peer.socket.close()
                peer = None
            if request is None:
                return
            if peer is None:
                peer = _Peer(address, host)
                selector.register(peer.socket, selectors.EVENT_READ, (host, peer))
            peer.ask(request, began)

        for number in range(connections):
            begin(list(turns)[number % len(turns)], None)
        while selector.get_map():
            ready = selector.select(_STALL_SECONDS)
            if not ready:
                raise TimeoutError(f"the tracker said nothing for {_STALL_SECONDS:.0f} s")
            for key, _ in ready:
                host, peer = key.data
                try:
                    is_over = peer.receive(tally)
                except OSError:
                    tally.failed += 1
                    selector.unregister(peer.socket)
                    peer.socket.close()
                    begin(host, None)
                    continue
                if is_over:
                    begin(host, peer)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("infohash", type=bytes.fromhex)
    parser.add_argument("--peers", type=int, required=True)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.0, help="0: every peer once, as it starts.")
    parser.add_argument("--kept", action="store_true", help="Connections are used again.")
    given = parser.parse_args()
    began = time.perf_counter()
    tally = announce(
        ("127.0.0.1", given.port),
        given.infohash,
        range(given.peers),
        connections=given.connections,
        seconds=given.seconds,
        is_kept=given.kept,
    )
    took = sorted(tally.seconds)
    figures = {"answered": tally.answered, "refused": tally.refused, "failed": tally.failed}
    latencies = {f"p{percent}": took[min(len(took) - 1, len(took) * percent // 100)] for percent in (50, 99) if took}
    print(json.dumps({**figures, "seconds": time.perf_counter() - began, **latencies}))


if __name__ == "__main__":
    main()
