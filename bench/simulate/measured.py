"""What the model takes from measurements and from other rooms; nothing is fitted to the runs it is held against."""

from __future__ import annotations

from typing import cast

from imagedist.config import Address
from imagedist.swarm.settings import session_settings

_SETTINGS = session_settings(Address("0.0.0.0", 0), "node", None, None)

NEIGHBOURS = cast(int, _SETTINGS["num_want"])
"""Peers that a node asks a tracker for, and dials (imagedist/swarm/settings.py)."""
LOST_SECONDS = float(cast(int, _SETTINGS["piece_timeout"]))
"""After so long without a byte a piece is asked for elsewhere (the same)."""

HEADERS = 1.05
"""Bytes on a link for a byte of an image: what a plain download's link carried (docs/swarm-benchmark.md)."""
ACKNOWLEDGEMENTS = 0.02
"""More, on a link that sends and receives at once (docs/swarm-benchmark.md)."""
ANSWER_SECONDS = 0.0054
"""Before the first byte: a layer of 100 kB takes so much longer through an agent (`imagedist-bench lone`)."""
JOIN_SECONDS = 0.2
"""Announce, connections and handshakes on a LAN: 20 MB came in 0.21 to 0.28 s (imagedist/fetch/watch.py)."""
TORRENT_BYTES_PER_SECOND = 1e9
"""At which a torrent is made (imagedist/swarm/torrent.py)."""
HASH_BYTES = 32
"""Of each piece, in the torrent (BEP 52)."""
ANNOUNCES_PER_SECOND = 4300.0
"""Of one core of a tracker, a new connection each, as libtorrent has them (`imagedist-bench tracker`)."""
KEPT_ANNOUNCES_PER_SECOND = 6490.0
"""The same on connections that are kept."""
PEER_BYTES = 400.0
"""Of the tracker's memory (`imagedist-bench tracker`: 1,000 peers 0.4 MB)."""
ANNOUNCE_SECONDS = 30.0
"""Between a node's announces: `seeder.announce_interval`."""
SEEDER_CONNECTIONS = 4000
"""A seeder refuses more (seeder/uploads/session.py)."""
RECONNECT_SECONDS = 5.0
"""After which a node that a seeder refused tries again; libtorrent's own backoff is 3 s and grows."""
UPLOAD_BYTES_PER_CPU_SECOND = 250e6
"""A seeder gives 200 MB to one peer in 0.7 to 1.0 s of one core (docs/seeding.md)."""
