"""``proxy.toml``: the site's proxy and the registries that it asks."""

from __future__ import annotations

from datetime import timedelta

from pydantic import ByteSize, Field

from imagedist.config.tagging import StaleAge, TagRule
from imagedist.config.values import AbsolutePath, Duration, Listen, Rate, Table, Url


class Upstream(Table):
    """A registry outside the site. The table's key is the path prefix and one of its ``ns`` values."""

    url: Url
    hosts: tuple[str, ...] = ()
    username: str | None = None
    password_file: AbsolutePath | None = None
    tag_ttl: Duration = timedelta(seconds=60)
    stale_if_error: StaleAge = timedelta.max
    """Whether, or up to which age, a tag is answered from here while the registry fails."""
    negative_ttl: Duration = timedelta(seconds=5)
    """How long "no such manifest or blob" is remembered: short, as whoever has just pushed wants to pull."""
    tags: tuple[TagRule, ...] = ()
    """The first that matches decides; else ``tag_ttl`` and ``stale_if_error``."""
    private_in_swarm: bool = False
    """All nodes may have what this upstream's credentials can read, so its blobs may enter the swarm."""


class ProxyTable(Table):
    listen: Listen
    site_blobs: AbsolutePath
    site_blobs_quota: ByteSize | None = None
    default_upstream: str | None = None
    site_seeders: tuple[Url, ...] = ()
    site_proxies: tuple[Url, ...] = ()
    """The other proxies of this site: told of every purge."""
    site_token_file: AbsolutePath | None = None
    first_wave_nodes: int = Field(default=2, ge=1)
    first_wave_wait: Duration = timedelta(seconds=20)
    swarm_min_size: ByteSize = ByteSize(1 << 20)
    egress: Rate = None
    max_requests: int = Field(default=512, ge=1)


class ProxyConfig(Table):
    proxy: ProxyTable
    upstreams: dict[str, Upstream] = Field(min_length=1)
