"""Which HTTP or SOCKS proxy the way to a URL goes through, by the usual variables. Pure.

The rules are those of Go's programs (docker, containerd, podman): lower case before upper case, ``ALL_PROXY`` last,
never for loopback; ``NO_PROXY`` names hosts (with their subdomains), addresses, networks and ports.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from imagedist.errors import InputError

SCHEMES = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})
DIRECT = "none"
_PORTS = {"http": 80, "https": 443}
_PROXY_PORTS = {"http": 80, "https": 443}
_SOCKS_PORT = 1080
_VARIABLES = frozenset({"http_proxy", "https_proxy", "all_proxy"})


class Proxy(NamedTuple):
    """``url`` without the credentials, which come apart, so that no message of a library repeats them."""

    url: str
    username: str | None = None
    password: str = ""

    @property
    def is_socks(self) -> bool:
        return self.url.startswith("socks")

    @property
    def resolves(self) -> bool:
        """Whether it is given names, not addresses, to connect to."""
        return not self.url.startswith(("socks4:", "socks5:"))


def parse_proxy(text: str, what: str) -> Proxy:
    """A proxy's URL; without a scheme it is an HTTP proxy's.

    Raises:
        InputError: not one; ``what`` is where it was given. What it says may hold a password, so it is not repeated.
    """
    url = text.strip() if "://" in text else f"http://{text.strip()}"
    try:
        parts = urlsplit(url)
        port = parts.port or _PROXY_PORTS.get(parts.scheme, _SOCKS_PORT)
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in SCHEMES or not parts.hostname:
        allowed = ", ".join(sorted(SCHEMES))
        raise InputError(f"bad {what}: expected a URL such as http://proxy.example:3128; schemes: {allowed}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    username = unquote(parts.username) if parts.username is not None else None
    return Proxy(f"{parts.scheme}://{host}:{port}", username, unquote(parts.password or ""))


def has_proxies(environment: Mapping[str, str] = os.environ) -> bool:
    return any(value for name, value in environment.items() if name.lower() in _VARIABLES)


def environment_proxy(url: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """The proxy for a URL; None: the way is direct.

    Raises:
        InputError: the variable holds nonsense.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if not host or _is_loopback(host):
        return None
    if _is_excepted(host, parts.port or _PORTS.get(parts.scheme, 0), _variable("no_proxy", environment)[1]):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        variable, value = _variable(name, environment)
        if value:
            return parse_proxy(value, variable)
    return None


def _variable(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    upper = name.upper()
    return (name, environment[name]) if environment.get(name) else (upper, environment.get(upper, ""))


def _is_excepted(host: str, port: int, no_proxy: str) -> bool:
    address = _address(host)
    for entry in no_proxy.lower().replace(" ", ",").split(","):
        if not entry:
            continue
        if entry == "*":
            return True
        if "/" in entry:
            if address is not None and _is_in(address, entry):
                return True
            continue
        name, colon, only_port = entry.rpartition(":")
        if colon and only_port.isdigit() and (name.count(":") == 0 or name.endswith("]")):
            if int(only_port) != port:
                continue
        else:
            name = entry
        name = name.strip("[]")
        if address is not None:
            if address == _address(name):
                return True
        elif (host == name.lstrip(".") and not name.startswith(".")) or host.endswith(f".{name.lstrip('.*')}"):
            return True
    return False


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: str) -> bool:
    try:
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)
