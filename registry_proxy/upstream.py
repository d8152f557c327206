"""Which upstream a request means, by the three rules of design.md §4.1, and the client to ask it with.

With ``allow_any`` a registry's host name will do where a configured upstream's would: in ``ns``, or before the
repository if it has a dot in it.
"""

from __future__ import annotations

import hmac
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from imagedist.config import ProxyConfig, Upstream, matches
from imagedist.distribution.backend import Target
from imagedist.errors import ConfigError, NotFoundError
from imagedist.oci.reference import is_name
from registry_proxy.clients import any_client, any_http, upstream_client
from registry_proxy.upstream_client import UpstreamClient

_HOST = re.compile(r"[a-z0-9]+(?:-+[a-z0-9]+)*(?:\.[a-z0-9]+(?:-+[a-z0-9]+)*)*(?::[0-9]{1,5})?")
_HOST_LENGTH = 253
_HIGHEST_PORT = 65_535
_ANY_CLIENTS = 256
"""Registries of no file that are remembered (their tokens, whether they fail): hostile names must not pile up."""


@dataclass(frozen=True, slots=True)
class UpstreamRepository:
    """One repository of a configured upstream, and who asks for it.

    Attributes:
        upstream: the table's key.
        client: asks upstream as the asker, or with the proxy's own credentials, as the mode says.
        own_client: asks upstream as the proxy itself does, where ``client`` does not.
        asker: a hash of the asker's credentials where those decide (``passthrough``); empty: anonymous, or all alike.
        is_trusted: somebody configured this registry. One of ``allow_any`` may be anybody's, and say anything.
        is_open: upstream gives this repository to anonymous askers, so who asks does not matter.
    """

    upstream: str
    repository: str
    settings: Upstream
    client: UpstreamClient = field(compare=False)
    own_client: UpstreamClient | None = field(default=None, compare=False)
    asker: str = ""
    is_open: bool = False
    is_trusted: bool = True

    @property
    def needs_grant(self) -> bool:
        """Whether upstream has to say, for each asker, who may have what is here already."""
        return self.settings.access == "passthrough"

    @property
    def is_private(self) -> bool:
        """Whether what comes from here is for those alone who may ask here."""
        if self.needs_grant:
            return self.asker != "" and not self.is_open
        return self.settings.access == "service-account" and not self.settings.private_in_swarm

    @property
    def has_account(self) -> bool:
        """Whether some credentials stand between this repository and everyone: else what was private is not its own."""
        return self.settings.access != "public"

    @property
    def may_swarm(self) -> bool:
        """Whether every node may have its blobs: private ones go by HTTP only (design.md §4.3)."""
        return not self.is_private or self.settings.private_in_swarm

    @property
    def owner(self) -> str:
        """What notes of private content call it: all that a service account reads is for the same people."""
        return str(self) if self.needs_grant else self.upstream

    def anonymously(self) -> UpstreamRepository:
        """The same, asked by nobody in particular. For ``passthrough``."""
        return replace(self, client=self.own_client or self.client, own_client=None, asker="")

    @property
    def key(self) -> str:
        """Of what was asked here: the answer to one asker is not another's."""
        return f"{self.asker}@{self}" if self.asker else str(self)

    def __str__(self) -> str:
        return f"{self.upstream}/{self.repository}"


class Upstreams:
    """The configured upstreams, each with one client for all its repositories.

    Raises:
        ConfigError: a key that cannot stand in a path, an unknown default, a host claimed twice, a missing password.
    """

    def __init__(self, config: ProxyConfig) -> None:
        self._salt = os.urandom(32)  # the hashes mean nothing outside this process
        self._settings: Mapping[str, Upstream] = config.upstreams
        self._default = config.proxy.default_upstream
        self._by_namespace: dict[str, str] = {}
        for key in config.upstreams:
            if not is_name(key) or "/" in key:
                raise ConfigError(
                    f"bad key upstreams.{key}: it is the first part of paths, so expected lower-case letters, "
                    "digits, '.', '_' and '-'; put other spellings into its hosts"
                )
            self._by_namespace[key] = key
        for key, settings in config.upstreams.items():
            for host in settings.hosts:
                if self._by_namespace.setdefault(host, key) != key:
                    raise ConfigError(f"bad value for upstreams.{key}.hosts: {host} belongs to another upstream")
        if self._default is not None and self._default not in self._settings:
            raise ConfigError(f"bad value for proxy.default_upstream: {self._default!r} is none of {self._names()}")
        self._clients = {key: upstream_client(key, settings) for key, settings in config.upstreams.items()}
        self._any_http = any_http(config.proxy) if config.proxy.allow_any else None
        self._any: OrderedDict[str, UpstreamRepository] = OrderedDict()

    def resolve(self, target: Target) -> UpstreamRepository:
        """First match wins: ``ns``, then the path's first component, then the default.

        Raises:
            NotFoundError: no upstream is meant; names those there are. The repository is not among those served.
        """
        if target.namespace is not None:
            key = self._by_namespace.get(target.namespace)
            if key is None and self._any_http is not None and _is_host(target.namespace):
                return self._any_place(target.namespace, target.name)
            if key is None:
                raise NotFoundError(
                    f"no upstream for ns={target.namespace}; configured: {self._names()}", "NAME_UNKNOWN"
                )
            return self._place(key, target.name, target.authorization)
        first, slash, rest = target.name.partition("/")
        if slash and first in self._settings:
            return self._place(first, rest, target.authorization)
        if slash and self._any_http is not None and _is_host(first):
            return self._any_place(first, rest)
        if self._default is not None:
            return self._place(self._default, target.name, target.authorization)
        raise NotFoundError(
            f"no upstream for {target.name}: expected a path that begins with one of {self._names()}", "NAME_UNKNOWN"
        )

    def name(self, target: Target) -> str:
        """What the upstream itself calls that repository: where to push. Raises as ``resolve``."""
        place = self.resolve(target)
        return f"{place.client.name}/{place.repository}"

    def hosts(self) -> dict[str, list[str]]:
        """Every upstream's path prefix and the registry names it answers for."""
        return {key: [host for host, owner in self._by_namespace.items() if owner == key] for key in self._settings}

    def failing(self) -> list[str]:
        """The registries and mirrors that are not asked at the moment, because they keep failing."""
        return [
            f"{source.kind} {source.client.base_url} keeps failing and is left alone for a while"
            for client in self._clients.values()
            for source in client.sources
            if source.client.breaker is not None and source.client.breaker.is_open
        ]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        if self._any_http is not None:
            await self._any_http.close()

    def _any_place(self, host: str, repository: str) -> UpstreamRepository:
        assert self._any_http is not None
        kept = self._any.get(host)
        if kept is None:
            settings = Upstream(url=f"https://{host}")
            client = any_client(host, settings, self._any_http)
            kept = self._any[host] = UpstreamRepository(host, "", settings, client, is_trusted=False)
            if len(self._any) > _ANY_CLIENTS:
                self._any.popitem(last=False)
        self._any.move_to_end(host)
        return replace(kept, repository=repository)

    @property
    def wants_credentials(self) -> bool:
        """Whether clients are to send their own, to some upstream at least."""
        return any(settings.access == "passthrough" for settings in self._settings.values())

    def _place(self, key: str, repository: str, authorization: str | None) -> UpstreamRepository:
        settings, client = self._settings[key], self._clients[key]
        if not matches(settings.repositories, repository):
            raise NotFoundError(f"{key}/{repository} is not among the repositories that are served", "NAME_UNKNOWN")
        if authorization is None or settings.access != "passthrough":
            return UpstreamRepository(key, repository, settings, client)
        asker = hmac.new(self._salt, authorization.encode("utf-8", "surrogateescape"), "sha256").hexdigest()
        return UpstreamRepository(
            key, repository, settings, client.with_authorization(authorization), own_client=client, asker=asker
        )

    def _names(self) -> str:
        return ", ".join(sorted(self._settings))


def _is_host(text: str) -> bool:
    """A registry by its name: with a dot or a port, as references tell it from a repository ("localhost" is none)."""
    if not _HOST.fullmatch(text) or len(text) > _HOST_LENGTH:
        return False
    host, colon, port = text.partition(":")
    return 0 < int(port) <= _HIGHEST_PORT if colon else "." in host
