"""Another site as sync asks it: its journal, how far it is itself, and what its proxy holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from imagedist.config import Site, read_secret
from imagedist.errors import SourceError, UnauthorizedError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import is_name, is_tag
from imagedist.oci.tls import Tls
from imagedist.site.proxies import Proxies
from imagedist.site.questions import Questions
from imagedist.site_sync import SyncStatus
from seeder.sync.proxy import holds
from seeder.tag_routes import MAX_PAGE, JournalPage
from seeder.tags import TagRecord

ShapeT = TypeVar("ShapeT", bound=BaseModel)

FOLLOWED_PATHS = ("/site/v1/tags", "/site/v1/syncs")
"""What sites read of each other's seeders."""


class Sibling:
    """
    Args:
        name: what our configuration calls it, and what it must call itself.
    """

    def __init__(self, name: str, table: Site, own: str, tls: Tls | None = None) -> None:
        self.name = name
        self._table = table
        self._questions = Questions(f"seeder of {own}", None, tls)
        self._seeders = Proxies([table.seeder, *table.more_seeders])
        self._asking_seeder = Questions(f"seeder of {own}", read_secret(table.token_file), tls)

    async def close(self) -> None:
        await self._questions.close()
        await self._asking_seeder.close()

    async def page(self, since: int, wait_seconds: int, journal: str = "") -> JournalPage:
        """The next page of its journal, held back until there is something new.

        Args:
            journal: whose number ``since`` is: another one answers at once. Empty: unknown.

        Raises:
            SourceError: it does not answer, is another site, or too old to tell how tags move.
        """
        query = {"since": str(since), "limit": str(MAX_PAGE), "wait": str(wait_seconds), "journal": journal}
        page = await self._get("tags", query, JournalPage, wait_seconds)
        if not page.journal:
            raise SourceError(f"the seeder of site {self.name} is too old for sync: bring it to this version")
        self._require(page.site)
        return page

    async def all_tags(self) -> AsyncIterator[TagRecord]:
        """Its whole journal. Raises as ``page``."""
        since = 0
        while (page := await self.page(since, 0)).tags:
            for record in records_of(page):
                yield record
            since = page.sequence

    async def status(self) -> SyncStatus:
        """Raises SourceError: it does not answer, or is another site."""
        status = await self._get("syncs", {}, SyncStatus, 0)
        self._require(status.site)
        return status

    async def has(self, repository: str, digest: Digest) -> bool:
        """Whether its proxy holds a blob for everyone. Raises SourceError."""
        return await holds(self._questions, self._table.proxy, repository, digest)

    def _require(self, site: str) -> None:
        if site != self.name:
            raise SourceError(
                f"the seeder at {self._table.seeder} is that of site {site!r}, not {self.name!r}: correct "
                f"sites.{self.name}.seeder; nothing that it says is taken"
            )

    async def _get(self, path: str, query: dict[str, str], shape: type[ShapeT], wait_seconds: float) -> ShapeT:
        async def ask(url: str) -> bytes:
            asking = self._asking_seeder.ask("GET", f"{url}/site/v1/{path}", wait_seconds, query, is_operator=True)
            async with asking as answer:
                return await answer.read()

        try:
            body = await self._seeders.first(ask)
        except UnauthorizedError as error:
            raise UnauthorizedError(
                f"site {self.name} does not let this one read its {path}: give sites.{self.name}.token_file, with what "
                f"its seeder has in siblings_token_file ({error})",
                error.status,
            ) from error
        try:
            return shape.model_validate_json(body)
        except ValidationError as error:
            raise SourceError(
                f"{self._table.seeder} answered nonsense to {path}; is it an imagedist seeder?"
            ) from error


def records_of(page: JournalPage) -> list[TagRecord]:
    """Those that name a tag of a repository of a registry; what a site may say else is nothing to us."""
    return [
        TagRecord(entry.sequence, entry.name, entry.tag, entry.meaning())
        for entry in page.tags
        if is_name(entry.name) and "/" in entry.name and is_tag(entry.tag)
    ]
