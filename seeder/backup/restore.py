"""A site's store rebuilt: the tags that a backup has are put into sync's queue, which brings and sets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from imagedist.config import matches, parse_pattern
from imagedist.errors import ImagedistError, InputError
from imagedist.oci.digest import Digest
from imagedist.oci.platform import Platform
from imagedist.oci.reference import is_name
from imagedist.site_sync import RestoreLine, RestorePlan
from seeder.backup.registry import BackupRegistry
from seeder.moves import Meaning, Terms
from seeder.sync.gather import all_of
from seeder.sync.ledger import Ledger
from seeder.sync.parts import find_parts
from seeder.sync.proxy import SiteProxy
from seeder.sync.sibling import Sibling

_AT_ONCE = 16


class Wanted(NamedTuple):
    """A tag to be restored, and what it is to mean here."""

    name: str
    tag: str
    meaning: Meaning
    line: RestoreLine


class Restore:
    """From one place: a registry, or another seeder host.

    Args:
        store: the site's blob store, which is looked into.
    """

    def __init__(self, source: BackupRegistry | Sibling, ledger: Ledger, proxy: SiteProxy, store: Path) -> None:
        self._source = source
        self._ledger = ledger
        self._proxy = proxy
        self._store = store
        self._counted: set[Digest] = set()
        self._errors: list[str] = []

    async def find(self, repositories: Sequence[str]) -> tuple[list[Wanted], RestorePlan]:
        """What it has, and what of that is not here whole. Nothing moves.

        Args:
            repositories: names, globs, or expressions between slashes; none: all.

        Raises:
            InputError: a bad pattern. SourceError: the place does not answer. StorageError.
        """
        try:
            patterns = tuple(parse_pattern(text) for text in repositories)
        except ValueError as error:
            raise InputError(f"bad repository: {error}") from error
        here = {(each.name, each.tag): each.meaning for each in await self._ledger.journal_tags()}
        synced = await self._proxy.synced()
        wanted: list[Wanted] = []
        async for name, tag, told in self._tags(repositories, lambda name: matches(patterns, name)):
            held = here.get((name, tag))
            try:
                wanted.append(await self._judge(name, tag, told, held, synced.get(f"{name}:{tag}")))
            except ImagedistError as error:
                self._errors.append(f"{name}:{tag}: {error}")
        plan = RestorePlan(
            source=self._source.name, lines=tuple(each.line for each in wanted), errors=tuple(self._errors)
        )
        return [each for each in wanted if each.line.action in ("set", "move")], plan

    async def _judge(
        self, name: str, tag: str, told: Meaning, held: Meaning | None, synced: tuple[Digest, frozenset[Digest]] | None
    ) -> Wanted:
        own = self._ledger.site
        assert told.digest is not None
        line = RestoreLine(name=name, tag=tag, digest=told.digest, action="set")
        if held is not None and held.digest is None:
            return Wanted(name, tag, held, line.model_copy(update={"action": "deleted"}))
        if synced is not None:
            is_whole = not await self._missing(name, synced[0], synced[1], frozenset())
            if is_whole and synced[0] == told.digest:
                return Wanted(name, tag, told, line.model_copy(update={"action": "here"}))
            if is_whole and held is not None and held.digest == synced[0]:
                return Wanted(name, tag, held, line.model_copy(update={"action": "newer"}))
        meaning = held if held is not None and held.digest == told.digest else told
        if own not in meaning.terms:
            terms = told.terms.get(own) or told.terms.get(self._source.name) or Terms()
            meaning = replace(meaning, terms={**meaning.terms, own: terms})
        platforms = frozenset(Platform.parse(text) for text in meaning.terms[own].platforms)
        missing = await self._missing(name, told.digest, frozenset(), platforms)
        new = {digest: size for digest, size in missing.items() if digest not in self._counted}
        self._counted.update(new)
        action = "set" if synced is None else "move"
        update = {"action": action, "blobs": len(new), "bytes": sum(new.values())}
        return Wanted(name, tag, meaning, line.model_copy(update=update))

    async def _missing(
        self, name: str, digest: Digest, skipped: Collection[Digest], platforms: Collection[Platform]
    ) -> dict[Digest, int]:
        """The blobs of an image that are not in the store, with their sizes; and manifests that are not."""
        missing: dict[Digest, int] = {}

        async def read(each: Digest) -> bytes:
            if each in skipped:
                return b'{"schemaVersion":2}'
            kept = await asyncio.to_thread(_read, self._store / "manifests" / each.algorithm / each.hex)
            if kept is not None and Digest.of(kept, each.algorithm) == each:
                return kept
            body = await self._read_there(name, each)
            missing[each] = len(body)
            return body

        parts = await find_parts(read, digest, platforms, f"{name}@{digest}")
        for blob in parts.blobs:
            path = self._store / "blobs" / blob.digest.algorithm / blob.digest.hex
            if await asyncio.to_thread(_size, path) != blob.size_bytes:
                missing[blob.digest] = blob.size_bytes
        return missing

    async def _read_there(self, name: str, digest: Digest) -> bytes:
        if isinstance(self._source, BackupRegistry):
            return await self._source.manifest(name, digest)
        upstream, _, repository = name.partition("/")
        return await self._proxy.look(upstream, repository, digest)

    async def _tags(
        self, named: Sequence[str], is_wanted: Callable[[str], bool]
    ) -> AsyncIterator[tuple[str, str, Meaning]]:
        """What every tag of the place is to mean here: by a registry nobody's move, which any site's is newer than."""
        if not isinstance(self._source, BackupRegistry):
            async for record in self._source.all_tags():
                if record.digest is not None and is_wanted(record.name):
                    yield record.name, record.tag, record.meaning
            return
        registry = self._source
        if named and all(map(is_name, named)):
            names = list(named)
        else:
            names = [name async for name in registry.repositories() if is_wanted(name)]
        for name in names:
            tags = await registry.tags(name)
            for at in range(0, len(tags), _AT_ONCE):
                some = tags[at : at + _AT_ONCE]
                answers = await all_of([registry.means(name, tag) for tag in some])
                for tag, digest in zip(some, answers, strict=True):
                    if digest is not None:
                        yield name, tag, Meaning(digest)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
