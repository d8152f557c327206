"""What the site's inventory calls a node."""

from __future__ import annotations

import re
import socket

from imagedist.config import Address, AgentTable

_USUAL = AgentTable.model_fields["bittorrent"].default
_ALL_ADDRESSES = ("0.0.0.0", "::")


def node_id(table: AgentTable) -> str:
    """Of letters that a path of the site's API may have: ``agent.name``, or the host's name.

    Agents of one host differ in the peer address: what of it is not the default is in the name.
    """
    if table.name is not None:
        return table.name
    at: Address = table.bittorrent
    parts = [socket.gethostname()]
    parts += [at.host] if at.host not in _ALL_ADDRESSES else []
    parts += [str(at.port)] if at.port != _USUAL.port else []
    return _as_name("-".join(parts))


def former_node_id(table: AgentTable) -> str:
    """What agents called themselves by default at first: the site's inventory may have the node by that name."""
    return _as_name(f"{socket.gethostname()}-{table.bittorrent}")


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-")[:128]
