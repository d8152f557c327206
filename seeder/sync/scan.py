"""The site's own registry looked through: which tags the rules cover now, and what has moved since the last time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple
from weakref import WeakValueDictionary

from imagedist.errors import NotFoundError, PreconditionError, SourceError, UnauthorizedError
from imagedist.oci.digest import Digest
from seeder.leases import Leases
from seeder.moves import Terms
from seeder.sync.facts import Facts
from seeder.sync.gather import all_of
from seeder.sync.ledger import Ledger, Seen
from seeder.sync.proxy import SiteProxy
from seeder.sync.rules import ImageFacts, Rule, is_about_subject, referrers_tag, subject_of, terms_by_site

_LOG = logging.getLogger(__name__)

_AT_ONCE = 16
"""Questions to the registry."""
_FEW_TAGS = 10
"""Fewer may go at once, whatever their share."""
_MAX_REMEMBERED = 200_000
_DENIED_SECONDS = 60.0
"""A registry has no referrers API if it has said so for this long."""


class Found(NamedTuple):
    """A repository's covered tags. ``judged``: the tags that were asked about; None: all there are."""

    covered: dict[str, Seen]
    judged: frozenset[str] | None


class Scans:
    """
    Args:
        leases: of what other seeders may be looking at. None: there are none.
    """

    def __init__(
        self,
        proxy: SiteProxy,
        ledger: Ledger,
        rules: Sequence[Rule],
        leases: Leases | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = leases if leases is not None and leases.is_shared else None
        self._proxy = proxy
        self._ledger = ledger
        self._rules = rules
        self._facts = Facts(proxy)
        self._asking = asyncio.Semaphore(_AT_ONCE)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._said: OrderedDict[str, dict[str, Digest]] = OrderedDict()
        self._clock = clock
        self._tell_referrers: set[str] = set()
        self._denied_since: dict[str, float] = {}

    def covers(self, upstream: str, repository: str) -> bool:
        return any(rule.has_repository(upstream, repository) for rule in self._rules)

    async def repositories(self, rule: Rule) -> AsyncIterator[str]:
        """Those of a rule: named in full, found in the registry, and those of which something was seen before.

        Raises:
            SourceError: the registry cannot be asked, or does not tell its repositories.
        """
        told = set(rule.names)
        for name in rule.names:
            yield name
        if rule.has_patterns:
            try:
                async for name in self._proxy.repositories(rule.upstream):
                    if name not in told and rule.has_repository(rule.upstream, name):
                        told.add(name)
                        yield name
            except (NotFoundError, UnauthorizedError) as error:
                raise SourceError(
                    f"registry {rule.upstream} does not tell its repositories, so patterns hold for webhooks only: "
                    f"name them in full in sync.{rule.number}.repositories ({error})"
                ) from error
        for name in await self._ledger.seen_names(rule.upstream):
            repository = name.partition("/")[2]
            if repository not in told and rule.has_repository(rule.upstream, repository):
                yield repository

    async def scan(self, upstream: str, repository: str, only: str | None = None, *, may_delete: bool = False) -> int:
        """Looks at a repository, or at one tag of it, and queues what has moved.

        Args:
            may_delete: even most of its tags at a time.

        Returns:
            How many tags that is.

        Raises:
            SourceError, IntegrityError: the registry cannot be asked. StorageError.
            PreconditionError: most of the tags would be deleted elsewhere; nothing was noted.
        """
        name = f"{upstream}/{repository}"
        turn = self._turns.setdefault(name, asyncio.Lock())
        # What was asked first is noted first, or a tag would seem to move back.
        lease, leases = f"scan {name}", self._leases
        elsewhere = leases.held(lease) if leases is not None else contextlib.nullcontext()
        require = partial(leases.require, name=lease) if leases is not None else None
        async with turn, elsewhere:
            found = await self.find(upstream, repository, only, may_delete=may_delete)
            if found.judged is None and not may_delete:
                await self._check_deletions(name, found.covered)
            return await self._ledger.note_scan(name, found.covered, found.judged, require)

    async def _check_deletions(self, name: str, covered: Mapping[str, Seen]) -> None:
        """A registry that has lost its disk, or a rule that lost a letter, is no order to delete all there is."""
        seen = await self._ledger.seen(name)
        gone = [tag for tag in seen.keys() - covered.keys() if any(each.delete for each in seen[tag].terms.values())]
        if len(gone) >= _FEW_TAGS and 2 * len(gone) > len(seen):
            raise PreconditionError(
                f"{len(gone)} of the {len(seen)} tags of {name} are gone, or covered no more, and would be deleted at "
                "other sites: held back; if that is meant, `imagedist sync run --allow-deletions`"
            )

    async def count(self, upstream: str, repository: str) -> int:
        """How many tags of it are covered, as last seen. Raises StorageError."""
        return len(await self._ledger.seen(f"{upstream}/{repository}"))

    async def find(self, upstream: str, repository: str, only: str | None = None, *, may_delete: bool = False) -> Found:
        """What ``scan`` would note; changes nothing. Raises as that."""
        name = f"{upstream}/{repository}"
        rules = [rule for rule in self._rules if rule.has_repository(upstream, repository)]
        seen = await self._ledger.seen(name)
        if only is not None and (is_about_subject(only) or not any(rule.needs_all_tags for rule in rules)):
            tags, judged = [only], frozenset([only])
        else:
            tags, judged = await self._proxy.tags(upstream, repository), None
        said = await self._ask(name, rules, tags, only)
        covered = await self._covered(upstream, repository, rules, said)
        subjects = {
            each.digest: _with_referrers(each) for each in (covered if judged is None else {**seen, **covered}).values()
        }
        about = {tag: subject for tag in tags if (subject := subject_of(tag, subjects)) is not None}
        wanted = [each.digest for each in covered.values() if subjects[each.digest]]
        listed = await self._listed(upstream, repository, wanted, may_delete=may_delete)
        asked = await self._digests(name, about, None)
        if listed is None:
            kept = [tag for each in wanted if (tag := referrers_tag(each)) in seen and tag not in asked]
            listed = {tag: seen[tag].digest for tag in kept}
            if kept:
                _LOG.warning(
                    "registry %s told of referrers in %s, and now of none: %d lists stay",
                    upstream,
                    repository,
                    len(kept),
                )
        for tag, digest in {**asked, **listed}.items():
            subject = about.get(tag) or subject_of(tag, subjects)
            if subject is not None and subjects[subject]:
                covered[tag] = Seen(digest, subjects[subject])
        return Found(covered, judged)

    async def _listed(
        self, upstream: str, repository: str, subjects: Sequence[Digest], *, may_delete: bool
    ) -> dict[str, Digest] | None:
        """Lists of referrers that the registry tells by its API only, by the tags under which they cross.

        None: it says that it has no such API, and that is not to be believed: one odd 404 would delete lists at other
        sites. It is, of a registry that has told nothing since our start and goes on saying so; or with ``may_delete``.
        """
        found: dict[str, Digest] = {}

        async def ask(subject: Digest) -> None:
            async with self._asking:
                index = await self._proxy.referrers(upstream, repository, subject)
            self._tell_referrers.add(upstream)
            self._denied_since.pop(upstream, None)
            if index is not None:
                found[referrers_tag(subject)] = index

        distinct = list(dict.fromkeys(subjects))
        try:
            for some in (distinct[:1], distinct[1:]):  # a registry without the API is asked once
                await all_of([ask(subject) for subject in some])
        except NotFoundError:
            since = self._denied_since.setdefault(upstream, self._clock())
            is_so = upstream not in self._tell_referrers and self._clock() - since >= _DENIED_SECONDS
            return {} if is_so or may_delete else None
        return found

    async def _ask(self, name: str, rules: Sequence[Rule], tags: Sequence[str], only: str | None) -> dict[str, Digest]:
        """What the registry says of every tag that a rule may cover."""
        wanted = {tag for rule in rules for tag in rule.by_name(tags)}
        said = await self._digests(name, [tag for tag in tags if tag in wanted], only)
        self._said[name] = said if only is None else {**self._said.get(name, {}), **said}
        self._said.move_to_end(name)
        while sum(map(len, self._said.values())) > _MAX_REMEMBERED and len(self._said) > 1:
            self._said.popitem(last=False)
        return said

    async def _digests(
        self, name: str, tags: Sequence[str] | Mapping[str, object], only: str | None
    ) -> dict[str, Digest]:
        """By tag; those that the registry does not have are left out.

        Args:
            only: the tag that is asked about now; of the others what is known counts. None: all are asked about.
        """
        upstream, _, repository = name.partition("/")
        known = self._said.get(name, {}) if only is not None else {}

        async def ask(tag: str) -> tuple[str, Digest | None]:
            if tag != only and tag in known:
                return tag, known[tag]
            async with self._asking:
                return tag, await self._proxy.tag_now(upstream, repository, tag)

        answers = await all_of([ask(tag) for tag in tags])
        return {tag: digest for tag, digest in answers if digest is not None}

    async def _covered(
        self, upstream: str, repository: str, rules: Sequence[Rule], said: Mapping[str, Digest]
    ) -> dict[str, Seen]:
        by_tag: dict[str, list[Rule]] = {}
        for rule in rules:
            tags = rule.by_name(said)
            facts = dict.fromkeys(tags, ImageFacts())
            if rule.needs_facts:

                async def look(tag: str) -> tuple[str, ImageFacts]:
                    async with self._asking:
                        return tag, await self._facts.of(upstream, repository, said[tag])

                facts = dict(await all_of([look(tag) for tag in tags]))
            for tag in rule.covered(facts):
                by_tag.setdefault(tag, []).append(rule)
        return {tag: Seen(said[tag], terms_by_site(covering)) for tag, covering in by_tag.items()}


def _with_referrers(subject: Seen) -> dict[str, Terms]:
    """On what terms each site gets what refers to it: all of it, whatever the platforms."""
    return {
        site: terms.model_copy(update={"platforms": ()}) for site, terms in subject.terms.items() if terms.referrers
    }
