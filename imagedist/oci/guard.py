"""Which addresses a registry may lead us to (server-side request forgery), looked at where a connection is made.

An address is judged when a socket for it is about to be opened: after the name was resolved, for every connection,
redirects and token servers included, so that a name that changes its address in between gains nothing.

Source of the networks: IANA's special-purpose address registries (RFC 6890), read 2026-11.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(each) for each in text.split())


_NEVER = _networks(
    "0.0.0.0/8 127.0.0.0/8 169.254.0.0/16 224.0.0.0/4 240.0.0.0/4 192.0.0.0/24 100.100.100.200/32 168.63.129.16/32 "
    "::/128 ::1/128 fe80::/10 fec0::/10 ff00::/8 fd00:ec2::/32 fd20:ce::/32"
)
"""This machine, the link, groups, and where clouds keep a machine's secrets."""
_PRIVATE = _networks(
    "10.0.0.0/8 100.64.0.0/10 172.16.0.0/12 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 "
    "203.0.113.0/24 2001::/23 2001:db8::/32 2002::/16 3fff::/20"
)
_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


class RefusedAddressError(PermissionError):
    """The address is not one that we connect to for a registry."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Args:
    only_public: private networks are refused as well (any registry that a client names); else only those of
        ``_NEVER``: what a configured registry may lead to is the operator's own storage, but not this machine.
    allowed: networks that are let through whatever they are.
    """

    only_public: bool
    allowed: tuple[Network, ...] = ()

    def refuses(self, address: str) -> bool:
        judged = _judged(address)
        if any(judged in network for network in self.allowed if network.version == judged.version):
            return False
        if any(judged in network for network in _NEVER if network.version == judged.version):
            return True
        if not self.only_public:
            return False
        if judged.version == 6 and judged not in _PUBLIC_IPV6:
            return True
        return any(judged in network for network in _PRIVATE if network.version == judged.version)

    def refuses_name(self, host: str) -> bool:
        """For the way through a proxy, which resolves names itself: what can be told from the name alone."""
        host = host.rstrip(".").lower()
        try:
            return self.refuses(host)
        except ValueError:
            is_local = host == "localhost" or host.endswith(".localhost")
            return is_local or (self.only_public and (_is_within(host) or not host.isascii()))

    def open_socket(self, addr_info: Sequence[Any]) -> socket.socket:
        """A socket for one result of ``getaddrinfo``.

        Raises:
            RefusedAddressError: not for that address.
        """
        family, kind, protocol, _, address = addr_info
        if self.refuses(str(address[0])):
            what = "a public address" if self.only_public else "an address outside this machine"
            raise RefusedAddressError(errno.EPERM, f"{address[0]} is refused: it is not {what}")
        return socket.socket(family, kind, protocol)


def _judged(address: str) -> _Address:
    """The IPv4 address within an IPv6 one counts, if there is one. Raises ValueError: no address."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return parsed.ipv4_mapped
        if parsed in _NAT64 or (parsed in _COMPATIBLE and int(parsed) > 1):
            return ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    return parsed


def _is_within(host: str) -> bool:
    """Names that only a network's own servers know; numbers that ``inet_aton`` would read as an address."""
    labels = host.split(".")
    return len(labels) < 2 or labels[-1] in ("local", "internal", "lan", "intranet", "arpa") or labels[-1][:1].isdigit()
