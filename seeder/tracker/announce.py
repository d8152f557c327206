"""One announce as the tracker sees it (BEP 3, 7, 23). Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from imagedist.errors import InputError

MAX_HANDED_OUT = 30
"""Peers in one answer at most. Bounds a swarm's degree: 12-30 connections were enough for 48 nodes."""


class Endpoint(NamedTuple):
    """Where a peer listens, in the compact form: 4 or 16 bytes of address, 2 of port.

    A tuple because it is compared and looked up by the dozen for each announce: a twelfth of one's time as a dataclass.
    """

    compact: bytes

    @classmethod
    def of(cls, host: str, port: int) -> Endpoint:
        return cls(packed(host) + port.to_bytes(2, "big"))

    @property
    def host(self) -> bytes:
        return self.compact[:-2]

    @property
    def is_v4(self) -> bool:
        return len(self.compact) == 6

    @property
    def is_loopback(self) -> bool:
        return self.compact[0] == 127 if self.is_v4 else self.compact[:-2] == _LOOPBACK6

    def at(self, host: Endpoint) -> Endpoint:
        """The same port at another host."""
        return Endpoint(host.compact[:-2] + self.compact[-2:])


_LOOPBACK6 = ipaddress.IPv6Address("::1").packed


@lru_cache(maxsize=32_768)  # a node announces each of its blobs, again and again
def packed(host: str) -> bytes:
    """An IP address in 4 or 16 bytes; an IPv4 address in an IPv6 one is IPv4."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).packed


@dataclass(frozen=True, slots=True)
class Announce:
    """One announce.

    Attributes:
        infohash: 20 bytes; a v2 infohash comes truncated (BEP 52).
        peer: the connection's address with the announced port; ``&ip=`` is ignored, nobody speaks for another.
        reached: the address of ours that the peer connected to (its port does not matter).
        wanted: peers asked for, already bounded.
    """

    infohash: bytes
    peer: Endpoint
    reached: Endpoint
    is_seed: bool
    is_stopped: bool
    is_started: bool
    is_completed: bool
    wanted: int

    @classmethod
    def parse(cls, query: str, peer_host: str, reached_host: str) -> Announce:
        """Reads the raw query string of ``GET /announce``.

        Raises:
            InputError: a parameter is missing or malformed; names it.
        """
        parameters = {key: value for key, _, value in (pair.partition("=") for pair in query.split("&"))}
        infohash = unquote_to_bytes(parameters.get("info_hash", ""))
        if len(infohash) != 20:
            raise InputError("info_hash: expected 20 bytes (a v2 infohash truncated)")
        port = _number(parameters, "port", None, 65535)
        if port == 0:
            raise InputError("port: expected 1 to 65535")
        event = parameters.get("event", "")
        return cls(
            infohash=infohash,
            peer=Endpoint.of(peer_host, port),
            reached=Endpoint.of(reached_host, 0),
            is_seed=_number(parameters, "left", 1, 1 << 63) == 0,
            is_stopped=event == "stopped",
            is_started=event == "started",
            is_completed=event == "completed",
            wanted=min(_number(parameters, "numwant", MAX_HANDED_OUT, 1 << 31), MAX_HANDED_OUT),
        )


def _number(parameters: dict[str, str], name: str, default: int | None, largest: int) -> int:
    text = parameters.get(name, "")
    if not text and default is not None:
        return default
    if text == "-1" and name == "numwant":  # "as many as you like", as some clients say it
        return MAX_HANDED_OUT
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > largest:
        raise InputError(f"{name}: expected a number up to {largest}")
    return int(text)
