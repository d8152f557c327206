"""How fast this node's line is, as its kernel says: by it the default upload cap is reckoned."""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import struct
from pathlib import Path

UPLOAD_SHARE = 0.5
"""Of the line, for the swarm by default: what runs on the node has the other half, and all while nobody asks."""
_USUAL_BYTES_PER_SECOND = 125_000_000
"""1 Gbit/s, where the kernel cannot tell: virtual machines' cards mostly say nothing."""

_ROUTES = Path("/proc/net/route")
_IPV6_ROUTES = Path("/proc/net/ipv6_route")
_SIOCETHTOOL = 0x8946
_ETHTOOL_GSET = 1
_COMMAND_BYTES = 44
_UNKNOWN_MBIT = (0, 0xFFFF, 0xFFFFFFFF)


def default_upload() -> int:
    """Bytes per second that a node gives to peers when nobody says how many: half its line."""
    return int((_line_bytes_per_second() or _USUAL_BYTES_PER_SECOND) * UPLOAD_SHARE)


def _line_bytes_per_second() -> int | None:
    """Of the card that the default route goes by, or without one the fastest that any route does."""
    defaults, others = _interfaces()
    for names in (defaults, others):
        speeds = [speed for name in names if (speed := _speed_mbit(name)) is not None]
        if speeds:
            return max(speeds) * 125_000
        if names:
            return None
    return None


def _interfaces() -> tuple[list[str], list[str]]:
    """Names of those with a default route, and of those with another; of this process's network namespace."""
    defaults: set[str] = set()
    others: set[str] = set()
    with contextlib.suppress(OSError):
        for line in _ROUTES.read_text().splitlines()[1:]:
            name, destination, *_, mask = line.split()[:8]
            (defaults if destination == mask == "00000000" else others).add(name)
    with contextlib.suppress(OSError):
        for line in _IPV6_ROUTES.read_text().splitlines():
            destination, length, *_, name = line.split()
            is_default = int(length, 16) == 0 and int(destination, 16) == 0
            (defaults if is_default else others).add(name)
    return sorted(defaults - {"lo"}), sorted(others - {"lo"})


def _speed_mbit(interface: str) -> int | None:
    """By ioctl, not from /sys, which may be another network namespace's (ethtool(8): SIOCETHTOOL, ETHTOOL_GSET)."""
    command = array.array("B", struct.pack("I", _ETHTOOL_GSET).ljust(_COMMAND_BYTES, b"\0"))
    request = struct.pack("16sP", interface.encode(), command.buffer_info()[0])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            fcntl.ioctl(asking, _SIOCETHTOOL, request)
    except OSError:
        return None
    low, high = struct.unpack_from("H", command, 12)[0], struct.unpack_from("H", command, 28)[0]
    speed: int = low | high << 16
    return None if speed in _UNKNOWN_MBIT else speed
