"""What the model takes from measurements and from other rooms.

Times it is held against fitted nothing. What the site sends beside the blobs was counted in bursts of 8 and 16 nodes,
so that their ``site sent`` proves little; other numbers of nodes do.
"""

from __future__ import annotations

from typing import cast

from imagedist.config import Address
from imagedist.swarm.settings import session_settings

_SETTINGS = session_settings(Address("0.0.0.0", 0), "node", None, None)

NEIGHBOURS = cast(int, _SETTINGS["num_want"])
"""Peers that a node asks a tracker for, and dials (imagedist/swarm/settings.py)."""
LOST_SECONDS = float(cast(int, _SETTINGS["piece_timeout"]))
"""After so long without a byte a piece is asked for elsewhere (the same)."""

TRACKER_SECONDS = float(cast(int, _SETTINGS["tracker_receive_timeout"]))
"""After so long without an answer a tracker counts as asked in vain (the same)."""

HEADERS = 1.05
"""Of a link's time, for a byte of an image: what a plain download's link carried (docs/swarm-benchmark.md)."""
ACKNOWLEDGEMENTS = 0.02
"""More, on a link that sends and receives at once (docs/swarm-benchmark.md)."""
# What left a site's host in bursts of 8 and of 16 nodes, 24 MB at 8 Mbit/s, each packet counted by its port:
COUNTED_HEADERS = 1.01
"""Bytes that counters of links have for a byte sent: several segments that the kernel passes on as one have one header
(docs/test-network.md). Counters are what ``imagedist-bench swarm`` tells."""
COUNTED_UPSTREAM = 1.002
"""The same for the stream out of the registry, in larger packets: 24.05 of 24 MB."""
SEEDER_AGAIN, PROXY_AGAIN = 1.095, 1.036
"""Bytes that left by BitTorrent and by HTTP ÷ those that nodes received: a site's line is wider than a node's, whose
queue drops what is too much at a time (1.090 and 1.100; 1.035 and 1.037), and broken-off streams had some under way."""
HAVE_BYTES = 49.0
"""Of the seeder's acknowledgements, for each piece that a node tells it of: 6 kB/s to 8 nodes, 12 kB/s to 16."""
TRACKER_BYTES = 700.0
"""Of the tracker's, for each announce or scrape, a connection each: 56 kB in 71, 86 kB in 127."""
UPSTREAM_ACKNOWLEDGEMENTS = 0.002
"""Of each byte that comes into the site: 58 and 47 kB for 24 MB."""
ANSWER_SECONDS = 0.0054
"""Before the first byte: a layer of 100 kB takes so much longer through an agent (`imagedist-bench lone`)."""
SITE_WEIGHT = 2.0
"""Shares of a node's link that a connection from the site's host has beside one from a node. TCP shares a queue by
round-trip times: what a node sends waits in two, its own and the receiver's, what comes over the site's line in one.
The seeder sent 4.6 MB/s to 16 nodes in their first seconds (docs/simulator.md)."""
JOIN_SECONDS = 0.2
"""Announce, connections and handshakes on a LAN: 20 MB came in 0.21 to 0.28 s (imagedist/fetch/watch.py)."""
JOIN_CPU_SECONDS = 0.015
"""Of a torrent that a node begins with: 16,000 took 147 s of both CPUs (`imagedist-bench many`)."""
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
