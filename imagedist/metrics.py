"""Every metric name of every process, in one place (prometheus-client)."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

BYTES_BY_SOURCE = Counter(
    "imagedist_received_bytes", "Bytes of blobs received, by source.", ["source"]
)  # peer | seeder | webseed | proxy | upstream
BYTES_SERVED = Counter("imagedist_served_bytes", "Bytes of blobs and manifests sent to registry clients.", ["kind"])
REQUESTS = Counter("imagedist_registry_requests", "Registry API requests answered.", ["route", "status"])
FETCHES = Counter("imagedist_upstream_fetches", "Fetches from upstream, by what and outcome.", ["kind", "outcome"])
FAILURES = Counter("imagedist_source_failures", "Failures of a source, by cause.", ["source", "cause"])
TAGS = Counter("imagedist_tag_answers", "Tags answered, by how.", ["outcome"])
# fresh | pinned | revalidated | moved | fetched | stale
PEERS = Gauge("imagedist_tracker_peers", "Peers the tracker knows.")
SEEDS = Gauge("imagedist_seeds", "Blobs this process seeds.")
STORE_BYTES = Gauge("imagedist_store_bytes", "Bytes in this process's blob store.")
PULL_SECONDS = Histogram(
    "imagedist_pull_seconds", "Whole pulls into overlay storage.", buckets=(0.5, 1, 2, 5, 10, 20, 60, 300)
)
