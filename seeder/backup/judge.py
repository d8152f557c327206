"""Which tags of the site's journal a backup is to have: what rules here sent there, and what came from other sites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from seeder.backup.rows import News, Rows
from seeder.sync.facts import Facts
from seeder.sync.rules import ImageFacts, Rule, is_about_subject, subject_of
from seeder.tags import TagJournal, TagRecord


class Judge:
    """Of one backup.

    Args:
        rules: those that name it; for each tag the first that matches decides.
    """

    def __init__(self, backup: str, rules: Sequence[Rule], journal: TagJournal, rows: Rows, facts: Facts) -> None:
        self._backup = backup
        self._rules = rules
        self._journal = journal
        self._rows = rows
        self._facts = facts

    async def news(self, records: Sequence[TagRecord]) -> list[News]:
        """What a page of the journal means for the backup.

        Raises:
            NotFoundError, SourceError, IntegrityError: an image's labels or date cannot be read. StorageError.
        """
        found: list[News] = []
        foreign: dict[str, list[TagRecord]] = {}
        for record in records:
            if record.meaning.origin != self._journal.site:
                if self._of(record.name):
                    foreign.setdefault(record.name, []).append(record)
            elif self._backup in record.meaning.terms:
                found.append(News(record.name, record.tag, record.sequence, record.digest))
        for name, some in foreign.items():
            found += await self._judge(name, some)
        return sorted(found, key=lambda each: each.sequence)

    async def _judge(self, name: str, told: Sequence[TagRecord]) -> list[News]:
        """Of tags of a repository that came from other sites: those that were told, and those that depend on them."""
        here = [each for each in await self._journal.of_repository(name) if each.meaning.origin != self._journal.site]
        kept = {record.tag: record for record in here if record.digest is not None}
        has_all = any(rule.needs_all_tags for rule in self._of(name))
        asked = {record.tag for record in told}
        covered = await self._covered(name, kept.values() if has_all else [kept[tag] for tag in asked & kept.keys()])
        held = await self._rows.of_repository(name)
        subjects = [*held.values(), *(digest for tag in covered if (digest := kept[tag].digest) is not None)]
        about = {tag for tag in kept if is_about_subject(tag) and subject_of(tag, subjects) is not None}
        news = [News(name, tag, kept[tag].sequence, kept[tag].digest) for tag in sorted(covered | about)]
        news = [each for each in news if held.get(each.tag) != each.digest]
        judged = {record.tag: record for record in (here if has_all else told)}
        for tag in (held.keys() & judged.keys()) - covered - about:
            if self._deletes(name, tag):
                news.append(News(name, tag, judged[tag].sequence, None))
        return news

    async def _covered(self, name: str, records: Iterable[TagRecord]) -> set[str]:
        upstream, _, repository = name.partition("/")
        left = {record.tag: record for record in records}
        covered: set[str] = set()
        for rule in self._of(name):
            facts = dict.fromkeys(rule.by_name(left), ImageFacts())
            if rule.needs_facts:
                for tag in facts:
                    if (digest := left[tag].digest) is not None:
                        facts[tag] = await self._facts.of(upstream, repository, digest)
            covered.update(rule.covered(facts))
        return covered

    def _of(self, name: str) -> list[Rule]:
        upstream, _, repository = name.partition("/")
        return [rule for rule in self._rules if rule.has_repository(upstream, repository)]

    def _deletes(self, name: str, tag: str) -> bool:
        named = [rule for rule in self._of(name) if is_about_subject(tag) or rule.by_name([tag])]
        return bool(named) and named[0].terms.delete
