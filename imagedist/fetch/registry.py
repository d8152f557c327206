"""The plainest source: a registry, or a mirror of one, asked by the registry client."""

from __future__ import annotations

from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from functools import partial
from urllib.parse import urlsplit

from imagedist.oci.bulk import BlobStream, Consume
from imagedist.oci.client import FetchedManifest, RegistryClient
from imagedist.oci.credentials import LookedUp, find_credentials
from imagedist.oci.http import Http
from imagedist.oci.http_threads import ThreadedClient
from imagedist.oci.image import Image
from imagedist.oci.images import resolve_image
from imagedist.oci.manifest import Descriptor
from imagedist.oci.platform import Platform
from imagedist.oci.proxies import has_proxies
from imagedist.oci.reference import Reference
from imagedist.oci.tls import TlsFiles


class RegistrySource:
    """A ``fetch.source.Source`` for the repositories of one registry.

    Args:
        reference: names the registry; only its registry part matters.
        via: URL of a proxy or an agent's mirror to ask instead. It is told the registry by ``ns``, and gets no
            credentials of this user.
        plain_http: the registry speaks HTTP.
        tls: what is trusted, and shown, besides the system's authorities; by the registry or mirror alone.

    Raises:
        ConfigError: a file of ``tls`` cannot be read or used; names it.
    """

    is_verified = False

    def __init__(
        self, reference: Reference, via: str | None = None, *, plain_http: bool = False, tls: TlsFiles | None = None
    ) -> None:
        http = _http(reference, via, tls)
        if via is not None:
            self._client = RegistryClient(via, namespace=reference.registry, http=http)
        else:
            credentials = LookedUp(partial(find_credentials, reference.registry))
            self._client = RegistryClient.for_registry(
                reference.registry, plain_http=plain_http, credentials=credentials, http=http
            )

    async def resolve(self, reference: Reference, platform: Platform) -> Image:
        return await resolve_image(self._client, reference, platform)

    async def manifest(self, reference: Reference) -> FetchedManifest:
        """The manifest or index as it is served."""
        return await self._client.manifest(reference.repository, reference.target)

    def blob(self, reference: Reference, descriptor: Descriptor) -> AbstractAsyncContextManager[BlobStream]:
        """A blob to iterate over on the event loop."""
        return self._client.blob(reference.repository, descriptor.digest)

    async def deliver(self, reference: Reference, descriptor: Descriptor, consume: Consume, threads: Executor) -> None:
        async with self.blob(reference, descriptor) as stream:
            await stream.deliver(consume, threads)

    async def close(self) -> None:
        await self._client.close()


def _http(reference: Reference, via: str | None, tls: TlsFiles | None) -> Http | None:
    """None: the registry client's own."""
    if tls is None:
        return None if has_proxies() else ThreadedClient()  # only aiohttp's knows how to use them
    asked = via or f"https://{reference.registry}"
    if not has_proxies():
        return ThreadedClient(tls=tls.own(), elsewhere_tls=tls.elsewhere(), own_host=urlsplit(asked).hostname)
    from imagedist.oci.http_aiohttp import AiohttpClient  # here: its import takes a third of a pull's start

    return AiohttpClient.with_files(tls, asked)
