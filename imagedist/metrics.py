"""Every metric name of every process, in one place (prometheus-client). docs/metrics.md is this file for operators."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter(
    "imagedist_requests", "Requests answered, by route, kind of client and status.", ["route", "client", "status"]
)
FIRST_BYTE_SECONDS = Histogram(
    "imagedist_first_byte_seconds",
    "From a registry request's headers to the first byte of its answer, by route and source.",
    ["route", "source"],
    buckets=_SECONDS,
)
CACHE_ANSWERS = Counter(
    "imagedist_cache_answers",
    "Manifests and blobs given to clients, by whether they were here whole (hit) or not (miss).",
    ["route", "source"],
)
BYTES_SERVED = Counter("imagedist_served_bytes", "Bytes of blobs and manifests sent to registry clients.", ["kind"])
BYTES_BY_SOURCE = Counter(
    "imagedist_received_bytes",
    "Bytes of blobs received, by source: peer, seeder, webseed, proxy, sibling, mirror, upstream, backup; disk: had.",
    ["source"],
)
BYTES_GIVEN = Counter("imagedist_given_bytes", "Bytes of blobs given to peers of the swarm.")
SEEDING_ENDED = Counter(
    "imagedist_seeding_ended",
    "Blobs that a node stopped seeding, by cause: time, ratio, room (seeding.max_torrents or its quota).",
    ["cause"],
)
FETCHES = Counter("imagedist_upstream_fetches", "Fetches from upstream, by what and outcome.", ["kind", "outcome"])
UPSTREAM_OPEN = Gauge(
    "imagedist_upstream_open",
    "1 while a registry that keeps failing is not asked (its circuit breaker is open).",
    ["upstream"],
    multiprocess_mode="livemax",
)
FAILURES = Counter("imagedist_source_failures", "Failures of a source, by cause.", ["source", "cause"])
TAGS = Counter(
    "imagedist_tag_answers",
    "Tags answered, by how: fresh, pinned, synced, revalidated, moved, fetched, stale, backup.",
    ["outcome"],
)

WEB_SEEDS_REFUSED = Counter(
    "imagedist_web_seeds_refused", "Requests for web seeds refused: unsigned, malformed, forged, expired.", ["cause"]
)

QUIET = Gauge("imagedist_quiet", "1 while the node is in quiet mode: peers get a trickle.", multiprocess_mode="livemax")

IN_FLIGHT = Gauge(
    "imagedist_in_flight",
    "Registry requests being answered: answers or downloads.",
    ["lane"],
    multiprocess_mode="livesum",
)
QUEUED = Gauge("imagedist_queued", "Registry requests that wait for their turn.", ["lane"], multiprocess_mode="livesum")
REFUSED = Counter(
    "imagedist_refused", "Registry requests refused for want of room, by lane and cause.", ["lane", "cause"]
)
CONNECTIONS = Gauge("imagedist_connections", "Open connections of clients.", multiprocess_mode="livesum")
CONNECTIONS_REFUSED = Counter(
    "imagedist_connections_refused",
    "Times that a connection was kept waiting (full, exhausted) or failed its TLS handshake.",
    ["cause"],
)
CONNECTIONS_CUT = Counter(
    "imagedist_connections_cut", "Connections ended because the client owed us something for too long.", ["cause"]
)
LOG_LINES_DROPPED = Counter("imagedist_access_log_dropped", "Lines of the access log that its reader was too slow for.")
WORKERS_RESTARTED = Counter("imagedist_workers_restarted", "Worker processes that ended and were started again.")

ANNOUNCES = Counter(
    "imagedist_tracker_announces",
    "Announces by outcome: answered, stopped, malformed, foreign, unknown, full, failed.",
    ["outcome"],
)
PEERS_REFUSED = Counter(
    "imagedist_peers_refused",
    "Peers that the BitTorrent session hung up on: foreign (outside of the networks that peers may come from), corrupt "
    "(pieces failed their hash; banned), malformed (broke the protocol), unknown (asked for no torrent of ours), "
    "silent (said nothing for too long), unread (asked and read no answers), full (too many connections).",
    ["reason"],
)
TORRENTS_REFUSED = Counter(
    "imagedist_torrents_refused",
    "Torrents refused, by what was wrong: size, encoding, name, kind (not v2-only, private, one file), piece_length, "
    "hashes, digest (another blob's).",
    ["reason"],
)
PEERS = Gauge("imagedist_tracker_peers", "Peers the tracker knows.", multiprocess_mode="livesum")
SEEDS = Gauge("imagedist_seeds", "Blobs this process seeds.", multiprocess_mode="livesum")
SEEDER_PEERS = Gauge("imagedist_seeder_peers", "Peers connected to the site's seeder.", multiprocess_mode="livesum")
SEEDER_SENT_BYTES = Counter("imagedist_seeder_sent_bytes", "Bytes of blobs that the site's seeder sent to peers.")
STORE_BYTES = Gauge("imagedist_store_bytes", "Bytes in this process's blob store.", multiprocess_mode="livemostrecent")
STORE_QUOTA_BYTES = Gauge(
    "imagedist_store_quota_bytes", "The blob store's quota; 0: none.", multiprocess_mode="livemostrecent"
)
STORE_PINNED_BYTES = Gauge(
    "imagedist_store_pinned_bytes", "Bytes that pins keep, as last counted.", multiprocess_mode="livemostrecent"
)
PULL_SECONDS = Histogram(
    "imagedist_pull_seconds", "Whole pulls into overlay storage.", buckets=(0.5, 1, 2, 5, 10, 20, 60, 300)
)
EVICTIONS = Counter("imagedist_store_evictions", "Files this process evicted from its blob store.")
EVICTED_BYTES = Counter("imagedist_store_evicted_bytes", "Bytes this process evicted from its blob store.")
PASSED_THROUGH = Counter("imagedist_passed_through", "Blobs served without being stored: there was no room.")
SCRUBBED_BYTES = Counter("imagedist_scrubbed_bytes", "Bytes of stored blobs that were read again and hashed.")
ROTTEN = Counter("imagedist_rotten_blobs", "Stored blobs that were found to have other bytes, and dropped.")

PREHEAT_TARGETS = Gauge(
    "imagedist_preheat_targets",
    "Nodes of a preheat at the seeder: done, working, waiting, missing, failed, gone, paused.",
    ["rule", "outcome"],
    multiprocess_mode="livesum",
)
PREHEAT_RUN_BYTES = Gauge(
    "imagedist_preheat_run_bytes",
    "Bytes that the nodes of a preheat took for its present run.",
    ["rule"],
    multiprocess_mode="livesum",
)
PREHEAT_SUCCESS = Gauge(
    "imagedist_preheat_success_timestamp_seconds",
    "When the last run that every node confirmed had ended, since the epoch.",
    ["rule"],
    multiprocess_mode="livemax",
)
PREHEAT_RUNS = Counter(
    "imagedist_preheat_runs", "Runs of a preheat: begun, and ended as done or incomplete.", ["rule", "outcome"]
)
PREHEAT_FAILURES = Counter("imagedist_preheat_failures", "Times that a node of a preheat had failed.", ["rule"])
PREHEAT_IMAGES = Gauge(
    "imagedist_preheat_images",
    "Images of preheats on this node: present, missing, working, failed.",
    ["rule", "state"],
    multiprocess_mode="livesum",
)
PREHEAT_PINNED_BYTES = Gauge(
    "imagedist_preheat_pinned_bytes",
    "Bytes, compressed, of the layers that preheats keep on this node, each once.",
    multiprocess_mode="livesum",
)
PREHEAT_RECEIVED = Counter("imagedist_preheat_received_bytes", "Bytes that this node took while it preheated.")

SYNC_TAGS = Counter("imagedist_sync_tags", "Tags that sync worked on at this site: set, deleted, failed.", ["outcome"])
SYNC_BLOBS = Counter(
    "imagedist_sync_blobs", "Blobs that sync needed here, by whether they were here: present, moved.", ["outcome"]
)
SYNC_BYTES = Counter("imagedist_sync_bytes", "Bytes of blobs that sync had brought into this site.")
SYNC_QUEUE = Gauge(
    "imagedist_sync_queue", "Tags in sync's queue: waiting, failed.", ["state"], multiprocess_mode="livesum"
)
SYNC_FOLLOW_FAILING = Gauge(
    "imagedist_sync_follow_failing",
    "1 while another site's journal cannot be followed.",
    ["site"],
    multiprocess_mode="livesum",
)
SYNC_CONFLICTS = Counter("imagedist_sync_conflicts", "Tags that two sites had moved without knowing of each other.")
SNAPSHOT_CALLS = Counter(
    "imagedist_snapshot_calls",
    "Calls of containerd that the snapshotter answered, by method and gRPC status (already_exists: it has the layer).",
    ["method", "status"],
)
SNAPSHOT_LAYERS = Counter(
    "imagedist_snapshot_layers",
    "Layers that containerd wanted to unpack: had (in the store), pulled (by the agent), left (to containerd).",
    ["outcome"],
)
BACKGROUND_FAILURES = Counter(
    "imagedist_background_failures", "Failures of work beside the requests, which then began anew.", ["work"]
)
LEADING = Gauge(
    "imagedist_seeder_leading",
    "1 while this seeder leads its site: preheats, schedules, other sites' journals.",
    multiprocess_mode="livesum",
)
BACKUP_TAGS = Counter(
    "imagedist_backup_tags", "Tags that were worked on at backups: set, deleted, failed.", ["outcome"]
)
BACKUP_BLOBS = Counter("imagedist_backup_blobs", "Blobs of images for backups: sent, or present there.", ["outcome"])
BACKUP_BYTES = Counter("imagedist_backup_bytes", "Bytes of blobs that were sent to backups.")
