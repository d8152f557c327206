"""Sites and nodes as network namespaces of one machine: own addresses, capped links that can be cut, bytes counted."""

from bench.network.link import Direction, Link
from bench.network.network import Network, Site
from bench.network.node import Node
from bench.network.obstacle import why_not

__all__ = ["Direction", "Link", "Network", "Node", "Site", "why_not"]
