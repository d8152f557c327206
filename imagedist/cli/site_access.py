"""How a command reaches its site: the options, their defaults from the agent's configuration, the client."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from imagedist.errors import InputError, UnauthorizedError

if TYPE_CHECKING:
    from imagedist.config.agent import AgentTable
    from imagedist.oci.tls import Tls
    from imagedist.site import Site

CONFIG = Path("/etc/imagedist/agent.toml")

Proxy = Annotated[
    list[str] | None, typer.Option(help="The site's proxy; repeatable. Default: those of this node's agent.")
]
Seeder = Annotated[
    list[str] | None, typer.Option(help="The site's seeder; repeatable. Default: those of this node's agent.")
]
TokenFile = Annotated[Path | None, typer.Option("--token-file", help="Holds the site token. Default: the agent's.")]
Config = Annotated[
    Path | None, typer.Option("--config", help=f"agent.toml, for both defaults. Default: {CONFIG}, if there.")
]


class SiteAccess(NamedTuple):
    """Proxies, and seeders, are tried in this order."""

    proxies: list[str]
    token: str | None
    tls: Tls | None
    seeders: list[str] = []

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Site]:
        from imagedist.site import Site

        site = Site(self.proxies, self.seeders, "imagedist", self.token, tls=self.tls)
        try:
            yield site
        except UnauthorizedError as error:
            held = "the one given is not that" if self.token is not None else "none was given"
            raise UnauthorizedError(
                f"{error}; {held}: name the token's file by --token-file, or the node's agent.toml by --config"
            ) from error
        finally:
            await site.close()


def site_access(
    proxy: list[str] | None, token_file: Path | None, config: Path | None, socket: Path | None
) -> SiteAccess:
    """What the options say, completed from agent.toml and the running agent.

    Raises:
        InputError: nobody says which proxy, or a URL is none. ConfigError: a file cannot be read.
    """
    from imagedist.config import parse_url

    table, token = _defaults(bool(proxy), token_file, config)
    proxies = [parse_url(url, "--proxy") for url in proxy or ()] or list(table.site_proxies if table else ())
    proxies = proxies or _agents_proxies(socket)
    return SiteAccess(proxies, token, _tls(table, proxies))


def seeder_access(
    seeder: list[str] | None, token_file: Path | None, config: Path | None, socket: Path | None
) -> SiteAccess:
    """The same for a command that asks the seeder; its proxies, where agent.toml names the site. Raises alike."""
    from imagedist.config import parse_url

    table, token = _defaults(bool(seeder), token_file, config)
    seeders = [parse_url(url, "--seeder") for url in seeder or ()] or list(table.site_seeders if table else ())
    seeders = seeders or _agents_seeders(socket)
    proxies = list(table.site_proxies if table and not seeder else ())
    return SiteAccess(proxies, token, _tls(table, seeders), seeders)


def tls_for(url: str, config: Path | None) -> Tls | None:
    """Towards a site's service, as agent.toml says it. Raises ConfigError."""
    return _tls(_table(config, is_needed=False), [url])


def _defaults(has_url: bool, token_file: Path | None, config: Path | None) -> tuple[AgentTable | None, str | None]:
    """What agent.toml has for a command, where its options do not say everything; and the token, from either."""
    from imagedist.config import read_secret

    table = _table(config, is_needed=not (has_url and token_file))
    return table, read_secret(token_file or (table.site_token_file if table else None))


def _table(config: Path | None, *, is_needed: bool) -> AgentTable | None:
    """Not needed: for TLS alone, and left out where it is not for this user."""
    from imagedist.config import AgentConfig, load

    path = config or (CONFIG if CONFIG.exists() and (is_needed or os.access(CONFIG, os.R_OK)) else None)
    return load(path, AgentConfig).agent if path is not None else None


def _tls(table: AgentTable | None, urls: Sequence[str]) -> Tls | None:
    from imagedist.site.tls import site_tls

    is_wanted = any(url.startswith("https:") for url in urls)  # the key may be for root alone
    return site_tls(table) if table is not None and is_wanted else None


def _agents_seeders(socket: Path | None) -> list[str]:
    from imagedist.agent.client import AgentClient, find_socket

    found = find_socket(socket)
    if found is None:
        raise InputError("which seeder? give --seeder URL or --config agent.toml: no agent runs on this node")
    seeders = list(AgentClient(found).status().site_seeders)
    if not seeders:
        raise InputError("which seeder? give --seeder URL: this node's agent has none (agent.site_seeders)")
    return seeders


def _agents_proxies(socket: Path | None) -> list[str]:
    from imagedist.agent.client import AgentClient, find_socket

    found = find_socket(socket)
    if found is None:
        raise InputError("which proxy? give --proxy URL or --config agent.toml: no agent runs on this node")
    return list(AgentClient(found).status().site_proxies)
