"""A place by the name that the site's seeder has for it: its own site, a sibling, a backup."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import BaseModel, Field

from imagedist.errors import InputError
from imagedist.oci.auth import Credentials
from imagedist.oci.client import RegistryClient
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.tls import Tls, trusting
from imagedist.site import Site
from imagedist.site_sync import BackupList, BackupSource
from imagedist.verify.place import BackupPlace, Place, SitePlace

_URL = r"^https?://"

FindTls = Callable[[str], Tls | None]
"""For a URL. Raises ConfigError."""


class _Sibling(BaseModel):
    name: str
    proxy: str = Field(pattern=_URL)


class _Sites(BaseModel):
    site: str
    proxies: tuple[str, ...] = ()
    siblings: tuple[_Sibling, ...] = ()


def is_place_name(text: str) -> bool:
    """Whether it is no URL of any kind."""
    return "://" not in text


class NamedPlaces:
    """
    Args:
        site: whose seeder is asked.
        proxies: of that site, as this node reaches them; none: as the seeder does.
        token: of that site, for its own list of tags.
        tls: towards a site's proxy.
    """

    def __init__(self, site: Site, proxies: Sequence[str], token: str | None, tls: FindTls) -> None:
        self._site = site
        self._proxies = tuple(proxies)
        self._token = token
        self._tls = tls

    async def open(self, name: str, token: str | None) -> Place:
        """
        Args:
            token: of the site that is meant; None: the seeder's own site has its own.

        Raises:
            InputError: nobody has that name; says which there are. SourceError: the seeder does not answer.
        """
        sites = await self._site.seeders.call("GET", "sites", _Sites)
        if name == sites.site:
            proxies = self._proxies or sites.proxies
            if not proxies:
                raise InputError(f"the seeder names no proxy of its own site {name}: give site:URL of one")
            return SitePlace(proxies[0], token or self._token, self._tls(proxies[0]))
        for sibling in sites.siblings:
            if sibling.name == name:
                return SitePlace(sibling.proxy, token, self._tls(sibling.proxy))
        backups = (await self._site.seeders.call("GET", "backups", BackupList)).backups
        for backup in backups:
            if backup.name == name:
                return _backup(backup)
        known = [sites.site, *(each.name for each in sites.siblings), *(each.name for each in backups)]
        raise InputError(
            f"bad place {name!r}: the site's seeder knows {', '.join(known)}; others are given by their URL, "
            "see `imagedist verify --help`"
        )


def _backup(backup: BackupSource) -> BackupPlace:
    """Raises ConfigError: its authorities are none."""
    login = Credentials(backup.username, backup.password or "") if backup.username is not None else None
    tls = trusting(backup.ca, f"backup {backup.name}") if backup.ca is not None else None
    return BackupPlace(RegistryClient(backup.registry, credentials=login, http=AiohttpClient(tls=tls)), backup.prefix)
