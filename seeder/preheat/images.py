"""What the images of a rule mean now: asked of the site's proxies, so that every node gets the same bytes."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import Sequence

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from imagedist.distribution.backend import Target
from imagedist.errors import ImagedistError, InputError, NotFoundError, SourceError, UnauthorizedError
from imagedist.oci.reference import Reference
from imagedist.preheat.rule import MAX_IMAGES, PreheatRule, is_pattern
from imagedist.preheat.shapes import KnownImages, Suggestions, Wanted
from imagedist.site import Site
from seeder.preheat.suggest import suggest

_ATTEMPTS = 3
_AT_ONCE = 8
_PROBLEM_LENGTH = 300


class Images:
    """
    Args:
        site: with the site's proxies. None: none are configured.
        wait_seconds: the longest pause between two attempts; injected by tests.
    """

    def __init__(self, site: Site | None, wait_seconds: float = 5.0) -> None:
        self._site = site
        self._wait_seconds = wait_seconds

    async def resolve(self, rule: PreheatRule, before: Sequence[Wanted]) -> tuple[tuple[Wanted, ...], tuple[str, ...]]:
        """Every image of a rule with its digest, and what is wrong with the others, a line each.

        Args:
            before: what they meant in the rule's last run: still meant by those that cannot be asked about now.

        Raises:
            InputError: no proxy is configured.
        """
        site = self._require()
        problems: list[str] = []
        references = await self._references(rule, problems)
        if len(references) > MAX_IMAGES:
            problems.append(f"{len(references)} images, more than {MAX_IMAGES}: the others are left out")
            references = references[:MAX_IMAGES]
        known = {each.reference: each for each in before}
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(text: str) -> Wanted | None:
            reference = Reference.parse(text)
            try:
                async with gate:
                    answer = await self._manifest(site, reference)
            except (SourceError, NotFoundError) as error:
                is_kept = text in known and not isinstance(error, NotFoundError)
                kept = f"; kept as {known[text].digest.short}" if is_kept else ""
                problems.append(f"{text}: {error}"[:_PROBLEM_LENGTH] + kept)
                return known[text] if is_kept else None
            except ImagedistError as error:
                problems.append(f"{text}: {error}"[:_PROBLEM_LENGTH])
                return None
            return answer

        wanted = await asyncio.gather(*(one(text) for text in references))
        return tuple(each for each in wanted if each is not None), tuple(problems)

    async def suggestions(self, share: float, count: int) -> Suggestions:
        """Raises InputError: no proxy is configured. SourceError: none answers."""
        known = await self._known()
        measured = len({tuple(layer.digest for layer in image.layers) for image in known.images if image.layers})
        return Suggestions(images=measured, suggestions=tuple(suggest(known.images, share, count)))

    async def _references(self, rule: PreheatRule, problems: list[str]) -> list[str]:
        """In the rule's order, each once."""
        found: list[str] = []
        known: KnownImages | None = None
        if rule.measured is not None or any(map(is_pattern, rule.images)):
            try:
                known = await self._known()
            except SourceError as error:
                problems.append(f"the site's tags are not known: {error}"[:_PROBLEM_LENGTH])
        for image in rule.images:
            if not is_pattern(image):
                found.append(image)
            elif known is not None:
                matching = sorted(each.reference for each in known.images if fnmatch.fnmatchcase(each.reference, image))
                if not matching:
                    problems.append(f"{image}: matches no tag that the site knows")
                found += matching
        if rule.measured is not None and known is not None:
            measured = suggest(known.images, rule.measured.share, rule.measured.images)
            if not measured:
                problems.append(f"no layers are shared by {rule.measured.share:.0%} of the site's images")
            found += [each.carrier for each in measured]
        return list(dict.fromkeys(found))

    async def _manifest(self, site: Site, reference: Reference) -> Wanted:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(max=self._wait_seconds),
            retry=retry_if_exception_type(SourceError) & retry_if_not_exception_type(UnauthorizedError),
            reraise=True,
        )
        target = Target(reference.registry, reference.repository)
        async for attempt in retrying:
            with attempt:
                answer = await site.manifest(target, reference.target)
        return Wanted(reference=str(reference), digest=answer.digest)

    async def _known(self) -> KnownImages:
        return await self._require().call("GET", "images", {}, KnownImages)

    def _require(self) -> Site:
        if self._site is None:
            raise InputError("seeder.site_proxies is empty: a preheat asks the site's proxies what its images mean")
        return self._site
