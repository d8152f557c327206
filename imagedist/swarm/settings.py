"""libtorrent's settings for a data-centre network, each with its reason. Its defaults are for the open internet.

With one seed and two leechers on loopback, 200 MB took 9.6 s with the defaults and 1.1-1.4 s with this table.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Literal

from imagedist.config import Address
from imagedist.swarm.bulk import TOS

Role = Literal["node", "seeder"]

PEER_ID_PREFIXES: dict[Role, str] = {"node": "-IDn001-", "seeder": "-IDs001-"}
"""First bytes of a peer ID (BEP 20). They tell the site's seeder from a node, for counting only: anyone may lie."""

_MIB = 1 << 20

_CONNECTIONS: dict[Role, int] = {"node": 400, "seeder": 4000}


def session_settings(address: Address, role: Role, upload: int | None, download: int | None) -> dict[str, object]:
    """The settings of one session.

    Args:
        address: where to listen; when the host is specific, outgoing connections come from it as well.
        role: the seeder is allowed more connections.
        upload, download: bytes per second over all torrents; None: no limit.
    """
    return {
        # Who we are and where.
        "listen_interfaces": str(address),
        "outgoing_interfaces": "" if ipaddress.ip_address(address.host).is_unspecified else address.host,
        "listen_queue_size": 1024,  # 5: a whole site may connect in the same second
        "listen_system_port_fallback": False,  # a port in use is an error to report, not to hide
        "max_retry_port_bind": 0,
        "enable_ip_notifier": False,  # every container started on a node is a "network change"
        "peer_fingerprint": PEER_ID_PREFIXES[role],
        "user_agent": "imagedist",
        # What a node gives gives way to all else on its card; the seeder's host has nothing better to do.
        "peer_dscp": TOS if role == "node" else 0,
        # Peers come from the site's trackers and from nowhere else.
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_outgoing_utp": False,  # TCP shares a data-centre network better and costs less CPU
        "enable_incoming_utp": False,
        "in_enc_policy": 2,  # disabled: RC4 hides nothing inside a site and costs CPU
        "out_enc_policy": 2,
        "allow_multiple_connections_per_ip": True,  # several agents on one machine, as in the demo and the tests
        # Of web seeds, too: the wheel's own OpenSSL knows neither the system's authorities nor the site's. What a web
        # seed sends is held against the torrent's SHA-256 hashes, and those against the digest.
        "validate_https_trackers": False,
        "ssrf_mitigation": False,  # refuses web seeds on private addresses, where ours all are
        "apply_ip_filter_to_trackers": False,  # those of our own configuration, wherever they are
        # Trackers: all of the site's seeders, often, and back soon after one was down.
        "announce_to_all_trackers": True,
        "announce_to_all_tiers": True,
        "min_announce_interval": 5,  # 300: the tracker's own interval shall rule
        "tracker_backoff": 10,  # 250 makes an hour out of a few failures
        "tracker_completion_timeout": 15,
        "tracker_receive_timeout": 10,
        "stop_tracker_timeout": 1,  # a closing process does not wait for a tracker that is gone
        # Few neighbours: all of them ask a node for its first piece at once, and each gets it so many times later.
        # 32 nodes at 250 kB/s, an image of 2 × 6 MB, a seeder at ten times that, p50 and max ÷ ideal: 30 neighbours
        # 1.20, 1.21; 8: 1.08, 1.09; 6: 1.06, 1.08; 4: 1.05, 1.10. Every announce brings as many again. Each neighbour
        # is told of each piece: 64 nodes, 24 MB at 8 Mbit/s, 2 × 8 neighbours: 12,560 packets came to a node; 2 × 5:
        # 10,760, a tenth of the CPU time less, and nobody was later.
        "num_want": 5,
        # Connections: dial at once, notice the dead soon, try them again soon.
        "connections_limit": _CONNECTIONS[role],
        "connection_speed": 500,
        "torrent_connect_boost": 200,
        "smooth_connects": False,
        "peer_connect_timeout": 5,
        "handshake_timeout": 5,
        "peer_timeout": 30,  # 120: a powered-off node would hold its requests for two minutes
        "request_timeout": 15,
        "piece_timeout": 10,
        "min_reconnect_time": 3,
        "max_failcount": 10,
        "urlseed_wait_retry": 5,
        # Rates: everyone unchoked, decisions every second, limits that are met.
        "unchoke_slots_limit": -1,
        "unchoke_interval": 1,
        # Bandwidth goes out in lumps of 20 ticks. With 100 ms a download cap of 4 MB/s let 6-8 MB through every other
        # second and nothing in between; with 50 ms 4 MB each second, and an idle session takes 0.2 % of a CPU.
        "tick_interval": 50,
        "rate_limit_ip_overhead": False,  # a cap means payload: guessed headers took 8 % off an upload cap
        "mixed_mode_algorithm": 0,  # prefer TCP: never throttle it in favour of uTP
        "upload_rate_limit": upload or 0,
        "download_rate_limit": download or 0,
        # Requests in flight for 10 Gbit/s, and the memory they may take.
        "max_out_request_queue": 1500,
        "max_allowed_in_request_queue": 4000,
        # A peer's queue and the pieces reserved for it are most likely what comes twice at the end. 16 nodes, 24 MB at
        # 8 Mbit/s, p50 ÷ ideal and what a node's link carried ÷ image (a plain download: 1.05): a queue of 3 s and
        # whole pieces of peers that need less than 20 s for one (libtorrent's own): 1.13, 1.11-1.17; 1 s and 20 s:
        # 1.12, 1.11-1.15; 3 s and 2 s: 1.07, 1.08-1.10; 1 s and 2 s: 1.07, 1.07-1.09 (cold 1.12 instead of 1.17).
        # Four nodes, 100 MB at 200 Mbit/s: no difference.
        "request_queue_time": 1,
        "whole_pieces_threshold": 2,
        "send_buffer_watermark": 4 * _MIB,
        "max_queued_disk_bytes": 64 * _MIB,
        # Every block wakes all of these, whether there is work for one or for all.
        "aio_threads": 1 if (os.cpu_count() or 1) <= 2 else 2,
        "hashing_threads": 1,  # one does 1.5 GB/s
        "file_pool_size": 200,
        # One alert per 16 KiB block: room for a second of full speed while the event loop is busy (about 20 MB).
        "alert_queue_size": 100_000,
    }
