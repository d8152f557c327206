"""A place that holds images: a registry, or what a site holds by itself, whatever its registry may have."""

from __future__ import annotations

import json
from typing import NamedTuple, Protocol

from pydantic import ValidationError

from imagedist.config import parse_url
from imagedist.errors import InputError, NotFoundError, SourceError, UnauthorizedError
from imagedist.oci.client import RegistryClient
from imagedist.oci.digest import Digest
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.reference import is_name
from imagedist.oci.tls import Tls, TlsFiles
from imagedist.site.questions import Questions
from imagedist.site_sync import KeptTags

_PAGE = 1000
_MAX_PAGES = 1000
"""A million names: a registry that goes on for ever is cut off."""
_SITE = "site:"
_BACKUP = "backup:"


class Found(NamedTuple):
    """What a tag means at a place. ``skipped``: manifests of its index that are not wanted there."""

    digest: Digest
    skipped: frozenset[Digest] = frozenset()


class Place(Protocol):
    """Every method raises SourceError when the place cannot be asked."""

    async def repositories(self) -> list[str]:
        """All that it tells of. NotFoundError: it does not tell."""

    async def tags(self, repository: str) -> dict[str, Found]: ...

    async def manifest(self, repository: str, digest: Digest) -> bytes | None:
        """None: it is not there. Raises IntegrityError: it has other bytes."""

    async def blob_size(self, repository: str, digest: Digest) -> int | None:
        """None: it is not there."""

    async def read(self, repository: str, digest: Digest) -> str:
        """The digest of the bytes that it gives for a blob."""

    async def close(self) -> None: ...


class RegistryPlace:
    """
    Args:
        name: put before its repositories: what a site calls this registry. Empty: nothing.
    """

    def __init__(self, client: RegistryClient, name: str = "") -> None:
        self._client = client
        self._prefix = f"{name}/" if name else ""

    def __str__(self) -> str:
        return self._client.base_url

    async def repositories(self) -> list[str]:
        found: list[str] = []
        for _ in range(_MAX_PAGES):
            page = await self._client.catalog({"n": str(_PAGE)} | ({"last": found[-1]} if found else {}))
            names = _names(page.body, "repositories", str(self))
            found += names
            if page.link is None or not names:
                break
        return [self._prefix + name for name in found]

    async def tags(self, repository: str) -> dict[str, Found]:
        name, found = self._own(repository), dict[str, Found]()
        last = ""
        for _ in range(_MAX_PAGES):
            try:
                page = await self._client.tags(name, {"n": str(_PAGE)} | ({"last": last} if last else {}))
            except NotFoundError:
                break
            tags = _names(page.body, "tags", str(self))
            for tag in tags:
                head = await self._client.head_manifest(name, tag)
                found[tag] = Found(head.digest or (await self._client.manifest(name, tag)).digest)
            if page.link is None or not tags:
                break
            last = tags[-1]
        return found

    async def manifest(self, repository: str, digest: Digest) -> bytes | None:
        try:
            return (await self._client.manifest(self._own(repository), str(digest))).body
        except NotFoundError:
            return None

    async def blob_size(self, repository: str, digest: Digest) -> int | None:
        try:
            return await self._client.blob_size(self._own(repository), digest)
        except NotFoundError:
            return None

    async def read(self, repository: str, digest: Digest) -> str:
        hasher = digest.hasher()
        async with self._client.blob(self._own(repository), digest) as stream:
            async for chunk in stream:
                hasher.update(chunk)
        return f"{digest.algorithm}:{hasher.hexdigest()}"

    async def close(self) -> None:
        await self._client.close()

    def _own(self, repository: str) -> str:
        return repository.removeprefix(self._prefix)


class SitePlace(RegistryPlace):
    """The tags that sync keeps at a site, and what its proxy holds for everyone.

    Args:
        proxy: its URL. token: the site token: the list names private repositories. tls: for an https URL.
    """

    def __init__(self, proxy: str, token: str | None, tls: Tls | None = None) -> None:
        super().__init__(RegistryClient(f"{proxy}/site/v1/held", name=proxy, http=AiohttpClient(tls=tls)))
        self._proxy = proxy
        self._token = token
        self._questions = Questions("imagedist verify", token, tls)
        self._kept: dict[str, dict[str, Found]] | None = None

    def __str__(self) -> str:
        return f"{_SITE}{self._proxy}"

    async def repositories(self) -> list[str]:
        return sorted(await self._tags())

    async def tags(self, repository: str) -> dict[str, Found]:
        return (await self._tags()).get(repository, {})

    async def close(self) -> None:
        await self._questions.close()
        await super().close()

    async def _tags(self) -> dict[str, dict[str, Found]]:
        if self._kept is None:
            self._kept = {}
            for each in (await self._list()).tags:
                tags = self._kept.setdefault(f"{each.upstream}/{each.repository}", {})
                tags[each.tag] = Found(each.digest, frozenset(each.skipped))
        return self._kept

    async def _list(self) -> KeptTags:
        authorization = f"Bearer {self._token}" if self._token else None
        url = f"{self._proxy}/site/v1/synced"
        try:
            async with self._questions.ask("GET", url, 60, {}, authorization=authorization) as answer:
                body = await answer.read()
        except UnauthorizedError as error:
            raise SourceError(
                f"{self} tells its tags with its site token only: give it by --token-file ({error})"
            ) from error
        try:
            return KeptTags.model_validate_json(body)
        except ValidationError as error:
            raise SourceError(f"{self._proxy} lists no tags; is it an imagedist proxy of this version?") from error


class BackupPlace(RegistryPlace):
    """What sites keep in a registry, under the names that they have for it.

    Args:
        prefix: what stands there before every name. Empty: nothing.
    """

    def __init__(self, client: RegistryClient, prefix: str) -> None:
        super().__init__(client)
        self._before = f"{prefix}/" if prefix else ""

    def __str__(self) -> str:
        return f"{_BACKUP}{self._client.base_url}/{self._before}".rstrip("/")

    async def repositories(self) -> list[str]:
        names = [name for name in await super().repositories() if name.startswith(self._before)]
        return [name.removeprefix(self._before) for name in names]

    def _own(self, repository: str) -> str:
        return self._before + repository


def open_place(text: str, token: str | None, tls: Tls | None = None, files: TlsFiles | None = None) -> Place:
    """``site:URL`` of a site's proxy, ``backup:URL[/PREFIX]`` of a registry that sites keep theirs in, or
    ``[NAME=]URL`` of another one; of registries with this user's login for it.

    Args:
        token, tls: of a site.
        files: for a registry: what it is trusted by, and shown, besides the system's authorities.

    Raises:
        InputError: neither. ConfigError: one of ``files`` cannot be read or used; names it.
    """
    from functools import partial
    from urllib.parse import urlsplit

    from imagedist.oci.credentials import LookedUp, find_credentials

    if text.startswith(_SITE):
        return SitePlace(parse_url(text.removeprefix(_SITE), "place"), token, tls)
    if text.startswith(_BACKUP):
        url = parse_url(text.removeprefix(_BACKUP), "place")
        parts = urlsplit(url)
        credentials = LookedUp(partial(find_credentials, parts.netloc))
        base_url, http = f"{parts.scheme}://{parts.netloc}", AiohttpClient.with_files(files, url)
        client = RegistryClient(base_url, credentials=credentials, http=http)
        return BackupPlace(client, parts.path.strip("/"))
    name, equals, url = text.partition("=")
    if not equals:
        name, url = "", text
    if name and (not is_name(name) or "/" in name):
        raise InputError(f"bad place {text!r}: before = stands what a site calls the registry, such as local")
    url = parse_url(url, "place")
    credentials = LookedUp(partial(find_credentials, urlsplit(url).netloc))
    client = RegistryClient(url, credentials=credentials, http=AiohttpClient.with_files(files, url))
    return RegistryPlace(client, name)


def _names(body: bytes, key: str, place: str) -> list[str]:
    try:
        return [str(each) for each in json.loads(body)[key] or ()]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{place} sent no list of {key}") from error
