"""How an upstream's servers are connected to, made from its table: TLS, proxies, guard, breaker, credentials."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TypedDict
from urllib.parse import urlsplit

from imagedist.config import ProxyTable, Upstream
from imagedist.errors import ConfigError, InputError
from imagedist.metrics import UPSTREAM_OPEN
from imagedist.oci.auth import FindCredentials
from imagedist.oci.breaker import Breaker
from imagedist.oci.client import RegistryClient
from imagedist.oci.guard import Guard, Network
from imagedist.oci.http_aiohttp import AiohttpClient, FindProxy
from imagedist.oci.proxies import DIRECT, environment_proxy, parse_proxy
from imagedist.oci.tls import Tls
from registry_proxy.logins import docker_login, login_of
from registry_proxy.upstream_client import UpstreamClient

_DOCKER_HUB_HOST = "registry-1.docker.io"
_LOOPBACK: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_V2 = "/v2/"
_FIRST_BYTE_FACTOR = 6
"""A blob may take longer to begin than a manifest: some registries (Nexus, Artifactory) fetch it as a whole first."""


def upstream_client(key: str, settings: Upstream) -> UpstreamClient:
    """
    Raises:
        ConfigError: a file, a variable or a URL is wrong; names the key.
    """
    parts = urlsplit(settings.url)
    login = login_of(key, settings, parts.netloc)
    registry = _client(key, settings, settings.url, login, is_mirror=False)
    mirrors = []
    for url in settings.mirrors:
        login = None
        if settings.docker_config is not None:
            login = docker_login(settings.docker_config, urlsplit(url).netloc)
        mirrors.append(_client(key, settings, url, login, is_mirror=True))
    return UpstreamClient(registry, mirrors)


def any_http(settings: ProxyTable) -> AiohttpClient:
    """For all registries that are in no file: at public addresses only, however they are reached."""
    return AiohttpClient(guard=Guard(only_public=True, allowed=tuple(settings.allow_addresses)))


def any_client(host: str, settings: Upstream, http: AiohttpClient) -> UpstreamClient:
    """A registry by its host name, without credentials. Not closed: ``http`` is everyone's."""
    api = _DOCKER_HUB_HOST if host == "docker.io" else host
    breaker = Breaker(host)  # without a metric: clients choose the names
    client = RegistryClient(f"https://{api}", name=host, http=http, breaker=breaker, **_patience(settings))
    return UpstreamClient(client)


def _client(
    key: str, settings: Upstream, url: str, login: FindCredentials | None, *, is_mirror: bool
) -> RegistryClient:
    base_url, prefix = _split(url)
    host = urlsplit(base_url).hostname or ""
    allowed = (*settings.allow_addresses, *(_LOOPBACK if _is_loopback(host) else ()))
    http = AiohttpClient(
        tls=_tls(key, settings, with_certificate=True),
        elsewhere_tls=_tls(key, settings, with_certificate=False),
        find_proxy=_find_proxy(key, settings),
        guard=Guard(only_public=False, allowed=allowed),
        own_host=host,
    )
    name = key if host == _DOCKER_HUB_HOST else urlsplit(base_url).netloc
    return RegistryClient(
        base_url,
        name=name,
        credentials=login,
        namespace=_registry_name(key, settings) if is_mirror else None,
        path_prefix=prefix,
        http=http,
        **_patience(settings),
        breaker=_mirror_breaker(key, name) if is_mirror else Breaker(name, changed=_gauge(key)),
    )


class _Patience(TypedDict):
    answer_seconds: float
    first_byte_seconds: float


def _patience(settings: Upstream) -> _Patience:
    answer_seconds = settings.answer_timeout.total_seconds()
    return {"answer_seconds": answer_seconds, "first_byte_seconds": _FIRST_BYTE_FACTOR * answer_seconds}


def _mirror_breaker(key: str, name: str) -> Breaker:
    """Opened by the first failure: there is somebody else to ask."""
    return Breaker(name, failures=1, span_seconds=0.0, changed=_gauge(f"{key} mirror {name}"))


def _split(url: str) -> tuple[str, str]:
    """``https://harbor.example/v2/hub`` → base URL and the prefix ``hub`` of every repository."""
    base_url, _, prefix = f"{url}/".partition(_V2)
    return base_url.rstrip("/"), prefix.strip("/")


def _registry_name(key: str, settings: Upstream) -> str:
    """What mirrors are asked for by ``ns``, as containerd asks them."""
    host = urlsplit(settings.url).netloc
    return "docker.io" if host == _DOCKER_HUB_HOST else host


def _tls(key: str, settings: Upstream, *, with_certificate: bool) -> Tls | None:
    certificate = settings.client_certificate if with_certificate else None
    if settings.ca_file is None and certificate is None:
        return None
    try:
        return Tls(settings.ca_file, certificate, settings.client_key if with_certificate else None)
    except ConfigError as error:
        raise ConfigError(f"bad value in upstreams.{key}: {error}") from error


def _find_proxy(key: str, settings: Upstream) -> FindProxy:
    if settings.proxy is None:
        return environment_proxy
    if settings.proxy == DIRECT:
        return lambda url: None
    try:
        proxy = parse_proxy(settings.proxy, f"value for upstreams.{key}.proxy")
    except InputError as error:
        raise ConfigError(str(error)) from error
    return lambda url: proxy


def _gauge(label: str) -> Callable[[bool], None]:
    gauge = UPSTREAM_OPEN.labels(upstream=label)
    gauge.set(0)
    return lambda is_open: gauge.set(1 if is_open else 0)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
