"""Peers that a session hung up on, counted by reason, from libtorrent's alerts. An honest site has next to none."""

from __future__ import annotations

from typing import Any

from imagedist.metrics import PEERS_REFUSED

_FOREIGN, _CORRUPT, _MALFORMED, _UNKNOWN, _SILENT = (
    PEERS_REFUSED.labels(reason=reason) for reason in ("foreign", "corrupt", "malformed", "unknown", "silent")
)

# error_code.hpp of libtorrent; the Python binding has no names for them.
_INVALID_INFO_HASH = 39
_NO_HANDSHAKE_OF_OURS = 77
"""It takes any other greeting for an encrypted one."""
_TIMED_OUT = frozenset({36, 50, 51})
"""Nothing came for ``peer_timeout``, nothing of use for longer, no handshake."""


def on_ban(alert: Any) -> None:
    """Its pieces failed their hash. It is never dialled nor let in again as long as the torrent is here."""
    _CORRUPT.inc()


def on_blocked(alert: Any) -> None:
    """It is outside of the networks that peers may come from."""
    _FOREIGN.inc()


def on_broken_rule(alert: Any) -> None:
    """It said what no peer may say."""
    _MALFORMED.inc()


def on_hang_up(alert: Any) -> None:
    """Most reasons are nobody's fault: two seeds have nothing to tell each other."""
    if alert.error.category().name() != "libtorrent":
        return
    code = alert.error.value()
    if code == _INVALID_INFO_HASH:
        _UNKNOWN.inc()
    elif code == _NO_HANDSHAKE_OF_OURS:
        _MALFORMED.inc()
    elif code in _TIMED_OUT:
        _SILENT.inc()
