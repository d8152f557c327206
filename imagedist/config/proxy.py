"""``proxy.toml``: the site's proxy and the registries that it asks."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Self

from pydantic import ByteSize, Field, IPvAnyNetwork, model_validator

from imagedist.config.site_tls import SiteTlsTable
from imagedist.config.tagging import Pattern, StaleAge, TagRule
from imagedist.config.values import AbsolutePath, AccessLog, Duration, Fallback, Listen, Rate, Table, Url


class Upstream(Table):
    """A registry outside the site. The table's key is the path prefix and one of its ``ns`` values."""

    url: Url
    hosts: tuple[str, ...] = ()
    mirrors: tuple[Url, ...] = ()
    """Asked before ``url``, in this order; a path that begins with ``/v2/`` is put before every repository."""
    username: str | None = None
    password_file: AbsolutePath | None = None
    """Read again when it has changed."""
    username_env: str | None = None
    password_env: str | None = None
    """Names of environment variables."""
    docker_config: AbsolutePath | None = None
    """A ``config.json`` of Docker's: logins and credential helpers, for ``url`` and the mirrors by their hosts."""
    ca_file: AbsolutePath | None = None
    """Authorities besides the system's."""
    client_certificate: AbsolutePath | None = None
    client_key: AbsolutePath | None = None
    """Shown to ``url`` and the mirrors when they ask for one, and to nobody else."""
    proxy: str | None = None
    """URL of an HTTP or SOCKS proxy, or ``none``; else the environment's HTTPS_PROXY and its kin count."""
    answer_timeout: Duration = timedelta(seconds=10)
    """The longest wait for the beginning of an answer; six times as long for a blob's."""
    allow_addresses: tuple[IPvAnyNetwork, ...] = ()
    """Networks that redirects and token servers may be in although they are this machine or its link."""
    tag_ttl: Duration = timedelta(seconds=60)
    stale_if_error: StaleAge = timedelta.max
    """Whether, or up to which age, a tag is answered from here while the registry fails."""
    negative_ttl: Duration = timedelta(seconds=5)
    """How long "no such manifest or blob" is remembered: short, as whoever has just pushed wants to pull."""
    tags: tuple[TagRule, ...] = ()
    """The first that matches decides; else ``tag_ttl`` and ``stale_if_error``."""
    mode: Literal["public", "service-account", "passthrough"] | None = None
    """``public``: asked anonymously; ``service-account``: with the credentials given here, whoever asks us;
    ``passthrough``: with those of whoever asks. None: a service account if there are credentials, else public."""
    repositories: tuple[Pattern, ...] = ()
    """Those that are served; none given: all."""
    private_in_swarm: bool = False
    """All nodes may have what needs credentials here, so its blobs may enter the swarm."""
    grant_ttl: Duration = timedelta(seconds=60)
    """``passthrough``: for how long a user who could read a repository may go on reading what is here."""
    grant_if_error: Duration = timedelta(hours=1)
    """The same while the registry fails."""

    @property
    def access(self) -> Literal["public", "service-account", "passthrough"]:
        """The mode in force."""
        return self.mode or ("service-account" if self.has_credentials else "public")

    @model_validator(mode="after")
    def _credentials_belong_to_a_service_account(self) -> Self:
        has_login = any(each is not None for each in (self.username, self.username_env, self.docker_config))
        if has_login and self.mode in ("public", "passthrough"):
            raise ValueError(f'credentials are for mode = "service-account", not {self.mode!r}')
        if not self.has_credentials and self.mode == "service-account":
            raise ValueError('mode = "service-account" needs credentials: username, username_env or docker_config')
        if self.mirrors and self.mode == "passthrough":
            raise ValueError('mirrors cannot say who may read: they do not go with mode = "passthrough"')
        return self

    @property
    def has_credentials(self) -> bool:
        given = (self.username, self.username_env, self.docker_config, self.client_certificate)
        return any(each is not None for each in given)

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if self.username is not None and self.username_env is not None:
            raise ValueError("username and username_env: give one of them")
        if self.password_file is not None and self.password_env is not None:
            raise ValueError("password_file and password_env: give one of them")
        has_name = self.username is not None or self.username_env is not None
        has_password = self.password_file is not None or self.password_env is not None
        if has_password and not has_name:
            raise ValueError("a password needs username or username_env beside it")
        if has_name and self.docker_config is not None:
            raise ValueError("docker_config has its own names: give it or a username")
        if self.client_key is not None and self.client_certificate is None:
            raise ValueError("client_key needs client_certificate beside it")
        return self


class ProxyTable(SiteTlsTable):
    listen: Listen
    site_blobs: AbsolutePath
    site_blobs_quota: ByteSize | None = None
    """Of all files below ``site_blobs``: what was not used for the longest time goes. None: as far as the disk goes."""
    site_blobs_headroom: ByteSize | None = None
    """Left free on the disk of ``site_blobs``. None: a twentieth of it, 1 GiB at most."""
    scrub_interval: Duration = timedelta(days=30)
    """Every stored blob is read again and hashed once in so long. 0: never by itself."""
    scrub_rate: Rate = 32 << 20
    """How fast scrubbing reads."""
    default_upstream: str | None = None
    allow_any: bool = False
    """Also registries that are no upstream of this file, by their host name, if they are at public addresses."""
    allow_addresses: tuple[IPvAnyNetwork, ...] = ()
    """Networks that those may be in although they are not public."""
    site_seeders: tuple[Url, ...] = ()
    """Several share the blob store's directory, and nodes announce to each."""
    seeder_replicas: int = Field(default=2, ge=1)
    """How many of them seed each blob, chosen by its digest; when one dies, the next one takes its part."""
    site_proxies: tuple[Url, ...] = ()
    """The other proxies of this site: told of every purge."""
    site_token_file: AbsolutePath | None = None
    first_wave_nodes: int = Field(default=2, ge=1)
    first_wave_wait: Duration = timedelta(seconds=20)
    swarm_min_size: ByteSize = ByteSize(1 << 20)
    egress: Rate = None
    max_requests: int = Field(default=512, ge=1)
    """Short answers (manifests, tags, referrers) under way at once; four times as many queue."""
    max_downloads: int = Field(default=2048, ge=1)
    """Blobs being sent at once; as many queue."""
    max_connections: int = Field(default=10_000, ge=16)
    """Further ones wait in the kernel's queue. All three are bounds on all worker processes together."""
    fallback: Fallback = "upstream"
    """Whether clients that cannot be served now are sent on to the upstream, or held here."""
    drain: Duration = timedelta(seconds=30)
    """How long running requests may finish after SIGTERM."""
    access_log: AccessLog = "text"
    """The form of the lines on standard output, one for each request."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that serve the one port."""
    tls_certificate: AbsolutePath | None = None
    tls_key: AbsolutePath | None = None
    """With both, HTTPS only. Read again when they change."""
    tls_client_ca: AbsolutePath | None = None
    """Only clients with a certificate of this authority are served; signed web seeds, whoever has their URL."""

    @model_validator(mode="after")
    def _tls_needs_both(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together: give both")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs HTTPS: give tls_certificate and tls_key as well")
        return self


class ProxyConfig(Table):
    proxy: ProxyTable
    upstreams: dict[str, Upstream] = {}

    @model_validator(mode="after")
    def _something_to_ask(self) -> Self:
        if not self.upstreams and not self.proxy.allow_any:
            raise ValueError("expected at least one table [upstreams.NAME], or allow_any = true")
        return self
