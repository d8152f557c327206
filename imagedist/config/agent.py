"""``agent.toml``: a node's mirror, its store, how it unpacks, its snapshotter."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import ByteSize, Field, IPvAnyNetwork, model_validator

from imagedist.config.site_tls import SiteTlsTable
from imagedist.config.values import (
    AbsolutePath,
    AccessLog,
    Address,
    CgroupName,
    Cpus,
    Duration,
    DurationOrNone,
    Fallback,
    Listen,
    NodeName,
    Percent,
    Rate,
    Ratio,
    Table,
    UploadRate,
    Url,
)

MIN_CONNECTIONS = 2


class AgentTable(SiteTlsTable):
    listen: Listen = Address("127.0.0.1", 5050)
    bittorrent: Listen = Address("0.0.0.0", 6882)
    socket: AbsolutePath = Path("/run/imagedist/agent.sock")
    site_proxies: tuple[Url, ...] = Field(min_length=1)
    site_seeders: tuple[Url, ...] = ()
    peer_networks: tuple[IPvAnyNetwork, ...] = ()
    """From which BitTorrent peers may come, and to which this node goes; the site's seeders and proxies (they are web
    seeds) must be in them. Empty: everywhere."""
    node_blobs: AbsolutePath = Path("/var/lib/imagedist/blobs")
    node_blobs_quota: ByteSize = ByteSize(50 << 30)
    name: NodeName | None = None
    """What the site's inventory calls this node; it must be no other's. None: see ``agent.naming``."""
    labels: dict[str, str] = {}
    site_token_file: AbsolutePath | None = None
    max_requests: int = Field(default=256, ge=1)
    """Short answers under way at once; four times as many queue."""
    max_downloads: int = Field(default=1024, ge=1)
    """Blobs being sent at once; as many queue."""
    fallback: Fallback = "upstream"
    """Whether clients that cannot be served now are sent on to the upstream, or held here."""
    swarm_stalled: Duration = timedelta(seconds=3)
    """So long without a verified piece, and the proxy's web seed helps; while bytes come, four times as long."""
    swarm_alone: Duration = timedelta(seconds=1)
    """The same when no tracker knows a single peer, or none answers."""
    swarm_helped: Duration = timedelta(seconds=5)
    """How long the web seed stays before it is held against the peers, and goes when those bring no less."""
    swarm_given_up: Duration = timedelta(seconds=30)
    """Not a byte for so long, web seed and all: the rest of the swarm's blobs comes by HTTP."""
    swarm_others: int = Field(default=2, ge=1)
    """A blob that comes by HTTP goes on by the swarm as soon as so many other nodes want it, too."""
    unfinished_kept: Duration = timedelta(hours=24)
    """How long the pieces of a blob that did not come whole are kept over restarts."""
    heartbeat: Duration = timedelta(seconds=15)
    """How often the agent tells the site that it lives; well below the seeder's ``nodes.gone_after``."""
    preheat_check: Duration = timedelta(minutes=1)
    """How often the agent looks whether what is preheated is still there."""
    runtime_patience: Duration = timedelta(seconds=30)
    """How long ``docker``, ``podman`` or ``ctr`` may take to answer a preheat; then it is killed, and left alone for
    twice as long."""
    drain: Duration = timedelta(seconds=10)
    """How long running requests may finish after SIGTERM."""
    access_log: AccessLog = "off"
    """The form of the lines on standard output, one for each request."""


class StorageTable(Table):
    root: AbsolutePath = Path("/var/lib/imagedist/storage")
    quota: ByteSize | None = None
    durability: Literal["none", "image"] = "image"
    used_by: tuple[AbsolutePath, ...] = (Path("/var/lib/containers/storage"),)


class UnpackTable(Table):
    ramdisk: AbsolutePath = Path("/run/imagedist/ramdisk")
    ramdisk_budget: ByteSize = ByteSize(4 << 30)
    cpus: Cpus | None = None
    workers: int | None = Field(default=None, ge=1)
    nice: int = Field(default=10, ge=-20, le=19)
    io_class: Literal["none", "best-effort", "idle"] = "none"
    cgroup: CgroupName | None = None
    """For the workers, below the mount of cgroup v2."""
    cpu_max: float | None = Field(default=None, gt=0.0)
    """CPUs' worth of time in the cgroup."""
    memory_max: ByteSize | None = Field(default=None, gt=0)
    devices: Literal["keep", "refuse", "skip"] = "keep"
    max_layer_entries: int = Field(default=2_000_000, ge=1)
    max_layer_size: ByteSize = ByteSize(100 << 30)
    max_layer_ratio: int = Field(default=500, ge=1)

    @model_validator(mode="after")
    def _limits_need_a_cgroup(self) -> Self:
        if self.cgroup is None and (self.cpu_max is not None or self.memory_max is not None):
            raise ValueError("cpu_max and memory_max limit a cgroup: give cgroup as well")
        return self


class SnapshotterTable(Table):
    socket: AbsolutePath
    listen: Listen | None = None
    """Where it answers ``/livez``, ``/readyz`` and ``/metrics``, over TCP. None: nowhere."""
    patience: Duration = timedelta(seconds=10)
    """containerd unpacks a layer itself when the agent's pull makes no progress for so long."""
    wait: Duration = timedelta(minutes=5)
    """And when the whole pull takes longer."""


class LimitsTable(Table):
    upload: UploadRate = "auto"
    """To peers. ``auto``: half of what the kernel says the line carries, or of 1 Gbit/s where it says nothing."""
    download: Rate = None
    """From peers and from the site's proxy, together."""
    connections: int = Field(default=400, ge=MIN_CONNECTIONS)
    """To peers at once, of all torrents together."""
    quiet: bool = False
    """Whether the agent starts in quiet mode."""


class SeedingTable(Table):
    """What a node seeds of its cache, and until when. What is not seeded any more stays in the cache."""

    time: DurationOrNone = timedelta(hours=24)
    """Since the blob came here, or was last asked for here. Idle torrents cost the tracker an announce every 30 s."""
    ratio: Ratio = None
    """Ends when peers were given so many times the blob's size since then."""
    max_torrents: int = Field(default=200, ge=1)
    """At once; beyond, what nobody has wanted for the longest time is left out."""
    quota: ByteSize | None = None
    """Of the bytes seeded at once, likewise. They are the cache's own files: ``node_blobs_quota`` bounds the disk."""


class QuietTable(Table):
    """What a node gives in quiet mode; what it takes stays as it is. Pressures: none given, only by command."""

    upload: Rate = 1_000_000
    connections: int = Field(default=50, ge=MIN_CONNECTIONS)
    cpu_pressure: Percent | None = None
    io_pressure: Percent | None = None
    memory_pressure: Percent | None = None
    """Of the time in which some task of this machine waited for the resource (``some`` of /proc/pressure): reached for
    half a minute, quiet mode begins by itself."""

    @property
    def pressures(self) -> dict[str, float]:
        """Those that are given, by resource."""
        given = {"cpu": self.cpu_pressure, "io": self.io_pressure, "memory": self.memory_pressure}
        return {resource: percent for resource, percent in given.items() if percent is not None}


class AgentConfig(Table):
    agent: AgentTable
    storage: StorageTable = StorageTable()
    unpack: UnpackTable = UnpackTable()
    snapshotter: SnapshotterTable | None = None
    limits: LimitsTable = LimitsTable()
    quiet: QuietTable = QuietTable()
    seeding: SeedingTable = SeedingTable()
