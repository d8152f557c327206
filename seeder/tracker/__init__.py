"""The site's tracker: who is introduced to whom; peers in memory, or in Redis when several trackers share them."""

from imagedist.errors import ConfigError
from seeder.tracker.peers import Peers, PeersInMemory, Place
from seeder.tracker.routes import add_tracker_routes
from seeder.tracker.tracker import Tracker

__all__ = ["Peers", "PeersInMemory", "Place", "Tracker", "add_tracker_routes", "open_peers"]

_MISSED_ANNOUNCES = 3
"""A peer is forgotten after this many intervals without an announce."""


def open_peers(where: str, site: str, interval_seconds: int) -> Peers:
    """
    Args:
        where: ``memory``, or the URL of a Redis.

    Raises:
        ConfigError: the Redis client is not installed. InputError: not a URL of a Redis.
    """
    life_seconds = _MISSED_ANNOUNCES * interval_seconds
    if where == "memory":
        return PeersInMemory(life_seconds)
    try:
        from seeder.tracker.redis import PeersInRedis
    except ImportError as error:
        raise ConfigError("tracker.peers needs the Redis client: pip install 'imagedist[redis]'") from error
    return PeersInRedis(where, site, life_seconds)
