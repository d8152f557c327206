"""What would move, and how many bytes, if sync ran now. Nothing moves: manifests are looked at and not kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from imagedist.errors import ImagedistError
from imagedist.oci.digest import Digest
from imagedist.oci.platform import Platform
from imagedist.site_sync import PlanLine, SyncPlan
from seeder.backup.service import Backups
from seeder.moves import Meaning, Terms
from seeder.sync.gather import all_of
from seeder.sync.ledger import Ledger
from seeder.sync.parts import Parts, find_parts
from seeder.sync.proxy import SiteProxy
from seeder.sync.rules import Rule
from seeder.sync.scan import Scans
from seeder.sync.sibling import Sibling, records_of
from seeder.sync.work import platforms_of

_AT_ONCE = 16

Has = Callable[[str, Digest], Coroutine[Any, Any, bool]]
"""Whether a site holds a blob of a repository."""


class Planner:
    """One plan. Make one for each."""

    def __init__(
        self,
        ledger: Ledger,
        proxy: SiteProxy,
        scans: Scans,
        rules: Sequence[Rule],
        siblings: Mapping[str, Sibling],
        backups: Backups,
    ) -> None:
        self._ledger = ledger
        self._proxy = proxy
        self._scans = scans
        self._rules = rules
        self._siblings = siblings
        self._backups = backups
        self._planned: set[tuple[str, str, str]] = set()
        self._parts: dict[tuple[Digest, frozenset[Platform]], Parts] = {}
        self._counted: dict[str, set[Digest]] = {}
        self._there: dict[str, dict[str, Digest | None]] = {}
        self._errors: list[str] = []

    async def plan(self) -> SyncPlan:
        """What the rules bring to each site and backup, and what other sites' journals and the queue bring here."""
        lines = [line async for line in self._outgoing()] + [line async for line in self._to_backups()]
        lines += [line async for line in self._incoming()]
        return SyncPlan(lines=tuple(lines), errors=tuple(dict.fromkeys(self._errors)))

    async def _outgoing(self) -> AsyncIterator[PlanLine]:
        done: set[tuple[str, str]] = set()
        for rule in self._rules:
            try:
                async for repository in self._scans.repositories(rule):
                    if (rule.upstream, repository) not in done:
                        done.add((rule.upstream, repository))
                        async for line in self._of_repository(rule.upstream, repository):
                            yield line
            except ImagedistError as error:
                self._errors.append(str(error))

    async def _of_repository(self, upstream: str, repository: str) -> AsyncIterator[PlanLine]:
        name = f"{upstream}/{repository}"
        covered = (await self._scans.find(upstream, repository)).covered
        for tag, seen in sorted(covered.items()):
            for site, terms in sorted(seen.terms.items()):
                meaning = Meaning(seen.digest, "", {}, {site: terms})
                if (line := await self._line(site, name, tag, meaning)) is not None:
                    yield line
        for tag, seen in sorted((await self._ledger.seen(name)).items()):
            for site, terms in sorted(seen.terms.items()):
                if terms.delete and tag not in covered:
                    gone = Meaning(None, "", {}, {site: Terms()})
                    if (line := await self._line(site, name, tag, gone)) is not None:
                        yield line

    async def _to_backups(self) -> AsyncIterator[PlanLine]:
        """What was not sent yet, and no registry says any more: tags that came from other sites."""
        for backup in self._backups.registries:
            try:
                async for news in self._backups.to_send(backup):
                    if (backup, news.name, news.tag) not in self._planned:
                        meaning = Meaning(news.digest, "", {}, {backup: Terms()})
                        if (line := await self._line(backup, news.name, news.tag, meaning)) is not None:
                            yield line
            except ImagedistError as error:
                self._errors.append(str(error))

    async def _incoming(self) -> AsyncIterator[PlanLine]:
        own = self._ledger.site
        for task in await self._ledger.queue.tasks(10_000):
            if task.source and (line := await self._line(own, task.name, task.tag, task.meaning)) is not None:
                yield line
        for name, sibling in self._siblings.items():
            try:
                since = await self._ledger.cursor(name, (await sibling.page(0, 0)).journal)
                while (page := await sibling.page(since, 0)).tags:
                    for record in records_of(page):
                        wanted = await self._ledger.judge(record)
                        line = await self._line(own, record.name, record.tag, wanted) if wanted is not None else None
                        if line is not None:
                            yield line
                    since = page.sequence
            except ImagedistError as error:
                self._errors.append(str(error))

    async def _line(self, site: str, name: str, tag: str, meaning: Meaning) -> PlanLine | None:
        """None: it means that there already, or the site cannot be asked."""
        self._planned.add((site, name, tag))
        try:
            there = await self._meaning_at(site, name, tag)
            if there == meaning.digest:
                return None
            if meaning.digest is None:
                return PlanLine(site=site, name=name, tag=tag, action="delete")
            blobs, size_bytes = await self._missing(site, name, meaning)
        except ImagedistError as error:
            self._errors.append(f"{name}:{tag} to {site}: {error}")
            return None
        action = "move" if there is not None else "set"
        return PlanLine(
            site=site, name=name, tag=tag, action=action, digest=meaning.digest, blobs=blobs, bytes=size_bytes
        )

    async def _missing(self, site: str, name: str, meaning: Meaning) -> tuple[int, int]:
        """How many of the image's blobs the site lacks, and their bytes; each counts once in a plan."""
        assert meaning.digest is not None
        upstream, _, repository = name.partition("/")
        platforms = platforms_of(meaning, site)
        key = (meaning.digest, platforms)
        if key not in self._parts:
            self._parts[key] = await find_parts(
                lambda each: self._proxy.look(upstream, repository, each), meaning.digest, platforms, name
            )
        counted = self._counted.setdefault(site, set())
        new = [blob for blob in self._parts[key].blobs if blob.digest not in counted]
        counted.update(blob.digest for blob in new)
        if site in self._backups.registries:
            present = await _ask_each(self._backups.of(site).has_blob, name, [blob.digest for blob in new])
        else:
            has = self._proxy.has if site == self._ledger.site else self._siblings[site].has
            present = await _ask_each(has, repository, [blob.digest for blob in new])
        missing = [blob for blob in new if blob.digest not in present]
        return len(missing), sum(blob.size_bytes for blob in missing)

    async def _meaning_at(self, site: str, name: str, tag: str) -> Digest | None:
        if site in self._backups.registries:
            return await self._backups.of(site).means(name, tag)
        return (await self._tags_of(site)).get(f"{name}:{tag}")

    async def _tags_of(self, site: str) -> dict[str, Digest | None]:
        """What tags mean at a site, by name."""
        if site not in self._there:
            if site == self._ledger.site:
                records = await self._ledger.journal_tags()
            else:
                records = [record async for record in self._siblings[site].all_tags()]
            self._there[site] = {f"{record.name}:{record.tag}": record.digest for record in records}
        return self._there[site]


async def _ask_each(has: Has, repository: str, digests: Iterable[Digest]) -> set[Digest]:
    found: set[Digest] = set()
    waiting = list(digests)
    while waiting:
        some, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
        answers = await all_of([has(repository, digest) for digest in some])
        found.update(digest for digest, is_there in zip(some, answers, strict=True) if is_there)
    return found
