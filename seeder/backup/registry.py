"""A backup's registry: what it has, and how an image is sent there: blobs first, each once, the tag last."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from imagedist.config import Backup, read_secret
from imagedist.errors import InputError, NotFoundError, SourceError, UnacceptableError, UnauthorizedError
from imagedist.oci.auth import Credentials
from imagedist.oci.client import FetchedManifest
from imagedist.oci.contents import parse_contents
from imagedist.oci.credentials import LookedUp
from imagedist.oci.digest import Digest
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.push import RegistryWriter
from imagedist.oci.reference import is_name
from imagedist.oci.retries import TransientError
from imagedist.oci.tls import Tls

_PAGE = 1000
_INDEX_DEPTH = 4
"""Indexes in indexes that are looked into."""
_MAX_PAGES = 1000
"""A million names: a registry that goes on for ever is cut off."""

Pace = Callable[[int], Awaitable[object]]
Note = Callable[[str], Awaitable[None]]


class BackupRegistry:
    """
    Args:
        name: what rules call it.

    Raises:
        ConfigError: its files cannot be read.
    """

    def __init__(self, name: str, table: Backup) -> None:
        self.name = name
        self.table = table
        self._prefix = f"{table.prefix}/" if table.prefix else ""
        tls = Tls(table.ca_file) if table.ca_file is not None else None
        credentials = None
        if table.username is not None:
            read_secret(table.password_file)  # a mistake is told now
            credentials = LookedUp(partial(_login, table.username, table.password_file))
        http = AiohttpClient(tls=tls)
        self._client = RegistryWriter(
            table.registry, name=f"{name} ({urlsplit(table.registry).netloc})", credentials=credentials, http=http
        )

    def __str__(self) -> str:
        return f"backup {self.name}"

    async def close(self) -> None:
        await self._client.close()

    def repository(self, name: str) -> str:
        """What the registry calls a repository that sites call ``name``."""
        return self._prefix + name

    async def means(self, name: str, tag: str) -> Digest | None:
        """What a tag means there; None: there is none. Raises SourceError, IntegrityError."""
        try:
            head = await self._client.head_manifest(self.repository(name), tag)
            return head.digest or (await self._client.manifest(self.repository(name), tag)).digest
        except NotFoundError:
            return None

    async def has_blob(self, name: str, digest: Digest) -> bool:
        """Raises SourceError."""
        return await self._client.has_blob(self.repository(name), digest)

    async def has_manifest(self, name: str, digest: Digest) -> bool:
        """Raises SourceError."""
        try:
            await self._client.head_manifest(self.repository(name), str(digest))
        except NotFoundError:
            return False
        return True

    async def manifest(self, name: str, digest: Digest) -> bytes:
        """Raises NotFoundError, SourceError, IntegrityError."""
        return (await self._client.manifest(self.repository(name), str(digest))).body

    async def repositories(self) -> AsyncIterator[str]:
        """What sites call the repositories that it has. Raises SourceError: it does not tell."""
        last = ""
        for _ in range(_MAX_PAGES):
            try:
                page = await self._client.catalog({"n": str(_PAGE)} | ({"last": last} if last else {}))
            except (NotFoundError, UnauthorizedError) as error:
                raise SourceError(
                    f"{self} does not tell its repositories: name them in full with --repository ({error})"
                ) from error
            names = _listed(page.body, "repositories", str(self))
            for name in names:
                if name.startswith(self._prefix) and "/" in name.removeprefix(self._prefix) and is_name(name):
                    yield name.removeprefix(self._prefix)
            if page.link is None or not names:
                return
            last = names[-1]

    async def tags(self, name: str) -> list[str]:
        """Every tag of a repository; none of one that it does not have. Raises SourceError."""
        found: list[str] = []
        for _ in range(_MAX_PAGES):
            query = {"n": str(_PAGE)} | ({"last": found[-1]} if found else {})
            try:
                page = await self._client.tags(self.repository(name), query)
            except NotFoundError:
                break
            tags = _listed(page.body, "tags", str(self))
            found += tags
            if page.link is None or not tags:
                break
        else:  # half a list would not know what tags that stay need
            raise SourceError(f"{self} comes to no end of the tags of {name}")
        return found

    async def send_blob(
        self, name: str, digest: Digest, path: Path, known: tuple[str, str] | None, pace: Pace, note: Note
    ) -> bool:
        """Unless it is there, or another repository of the backup has it, which is named in ``known``.

        Args:
            known: that repository, and an upload that was broken off there. note: told where an upload can go on.

        Returns:
            Whether nothing had to be sent.

        Raises:
            UnauthorizedError, SourceError, StorageError.
        """
        repository = self.repository(name)
        if await self._client.has_blob(repository, digest):
            return True
        elsewhere, begun = known if known is not None else ("", "")
        may_mount = elsewhere and not begun and elsewhere != repository
        if may_mount and await self._client.mount_blob(repository, digest, elsewhere):
            return True
        begun = begun if elsewhere == repository else ""
        await self._client.push_file(repository, digest, path, pace=pace, begun=begun, note=note)
        return False

    async def send_manifest(self, name: str, reference: str, manifest: FetchedManifest, *, is_whole: bool) -> None:
        """
        Args:
            is_whole: all that it refers to is there. Most registries want that of an index.

        Raises:
            UnauthorizedError, SourceError, IntegrityError. UnacceptableError: the registry refuses it for good.
        """
        try:
            await self._client.push_manifest(self.repository(name), reference, manifest.body, manifest.media_type)
        except (TransientError, UnauthorizedError):
            raise
        except (NotFoundError, SourceError) as error:
            if not is_whole:
                raise UnacceptableError(
                    f"{self} takes no index without all of its images, and this site has only those of its rule's "
                    f"platforms: leave platforms out of rules for this backup ({error})"
                ) from error
            raise SourceError(str(error)) from error

    async def delete_tag(self, name: str, tag: str, digest: Digest, going: Collection[str]) -> None:
        """By its name; by its digest where the registry knows no other way, and no tag that stays means that.

        Args:
            digest: what it means there. going: tags that are to go as well.

        Raises:
            UnauthorizedError, SourceError: the registry does not delete.
        """
        repository = self.repository(name)
        try:
            await self._client.delete_manifest(repository, tag)
        except (TransientError, UnauthorizedError):
            raise
        except SourceError as error:
            # Whoever set them: another site may keep its images in the same place.
            for other in set(await self.tags(name)) - {tag, *going}:
                if await self._needs(name, other, digest):
                    raise SourceError(
                        f"{self} deletes by digest only, and {name}:{other} means the same as {tag}, or an index with "
                        f"it: it stays until that goes ({error})"
                    ) from error
            await self._client.delete_manifest(repository, str(digest))

    async def _needs(self, name: str, tag: str, digest: Digest) -> bool:
        """Whether a tag means a manifest, or an index that names it. Raises SourceError, IntegrityError."""
        references = [tag]
        for _ in range(_INDEX_DEPTH):
            children: list[str] = []
            for each in references:
                try:
                    found = await self._client.manifest(self.repository(name), each)
                except NotFoundError:
                    continue
                if found.digest == digest:
                    return True
                with suppress(UnacceptableError):  # of no form that names others
                    contents = parse_contents(found.body, f"{name}:{each}")
                    children += [str(child.digest) for child in contents.children]
            if str(digest) in children:
                return True
            references = children
        return False


def _login(username: str, path: Path | None) -> Credentials:
    try:
        return Credentials(username, read_secret(path) or "")
    except InputError as error:
        raise SourceError(f"the password of a backup cannot be read: {error}") from error


def _listed(body: bytes, key: str, place: str) -> list[str]:
    try:
        return [str(each) for each in json.loads(body)[key] or ()]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{place} sent no list of {key}") from error
