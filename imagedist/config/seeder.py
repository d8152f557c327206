"""``seeder.toml``: the site's controller and its sibling sites."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, IPvAnyNetwork, model_validator

from imagedist.config.backups import Backup
from imagedist.config.schedules import TimeZone
from imagedist.config.site_tls import SiteTlsTable
from imagedist.config.syncing import SyncRule, TransferTable, check_rules
from imagedist.config.values import AbsolutePath, Duration, Listen, Rate, Table, Url


def _parse_peers(value: Any) -> str:
    if value != "memory" and not str(value).startswith(("redis://", "rediss://", "unix://")):
        raise ValueError('expected "memory" or redis://host:port/database')  # a password may be in what was given
    return str(value)


PeersUrl = Annotated[str, BeforeValidator(_parse_peers)]


class Site(Table):
    """A sibling: asked for blobs before the upstream, the cheapest first."""

    proxy: Url
    seeder: Url
    more_seeders: tuple[Url, ...] = ()
    """Asked for its journal when ``seeder`` does not answer: those that share its database."""
    cost: int = Field(default=10, ge=0)
    token_file: AbsolutePath | None = None
    """What its seeder wants to see of who follows its journal: its ``siblings_token_file``, or its site token."""


class SeederTable(SiteTlsTable):
    site: str = Field(min_length=1)
    listen: Listen
    bittorrent: Listen
    site_blobs: AbsolutePath
    site_proxies: tuple[Url, ...] = ()
    database: str = "sqlite:////var/lib/imagedist/seeder.db"
    takeover_after: Duration = timedelta(seconds=15)
    """Of several seeders on one PostgreSQL: when one is not heard of for so long, the others take its work."""
    site_token_file: AbsolutePath | None = None
    siblings_token_file: AbsolutePath | None = None
    """What other sites show to follow this one's journal; good for nothing else. None: the site token."""
    open_reads: bool = False
    """Whether everyone may read nodes, preheats, syncs and the journal, which name private images."""
    webhook_token_file: AbsolutePath | None = None
    """What registries send as ``Authorization: Bearer …`` with their notifications. None: the site token."""
    timezone: TimeZone | None = None
    """Of schedules and hours of the day. None: this machine's."""
    announce_interval: Duration = timedelta(seconds=30)
    upload: Rate = None
    """Bytes per second to all peers together; ``egress`` of the proxy caps both."""
    copies: float = Field(default=1.0, ge=0)
    """Whole blobs that a burst of nodes is given even where they have everything among them."""
    connections_per_host: int = Field(default=128, ge=1)
    """To the BitTorrent port, from one address: a node has one for each torrent that it wants at the moment."""


class TrackerTable(Table):
    peers: PeersUrl = "memory"
    """Where a site with several trackers keeps its peers: ``redis://host:port/database`` (``imagedist[redis]``)."""
    networks: tuple[IPvAnyNetwork, ...] = ()
    """From which peers may come, to the tracker and to the seeder's BitTorrent port. Empty: from everywhere."""


class NodesTable(Table):
    gone_after: Duration = timedelta(minutes=2)
    """Without a heartbeat for so long, a node is gone: no peer is sent to it, no preheat waits for it."""
    forget_after: Duration = timedelta(days=30)
    """And after so long it leaves the inventory."""


class SeederConfig(Table):
    seeder: SeederTable
    nodes: NodesTable = NodesTable()
    tracker: TrackerTable = TrackerTable()
    sites: dict[str, Site] = {}
    backups: dict[str, Backup] = {}
    sync: tuple[SyncRule, ...] = ()
    transfer: TransferTable = TransferTable()

    @model_validator(mode="after")
    def _sites_and_rules_fit(self) -> Self:
        own = self.seeder.site
        if own in self.sites:
            raise ValueError(f"sites.{own} has this site's own name: [sites] are the others; rename one of them")
        if self.sync and not self.seeder.site_proxies:
            raise ValueError("[[sync]] needs this site's proxy, which fetches and keeps: give seeder.site_proxies")
        for name in self.backups:
            if name == own or name in self.sites:
                raise ValueError(f"backups.{name} has the name of a site: rules could not tell them apart; rename it")
        check_rules(self.sync, set(self.sites), own, set(self.backups))
        return self
