"""What stands behind the /v2 surface: the proxy's pull-through store or the agent's swarm and cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from imagedist.oci.digest import Digest
from imagedist.oci.page import Page
from imagedist.store.reading import OpenBlob

__all__ = ["ManifestAnswer", "Page", "RegistryBackend", "Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a request's URL names, untouched: which upstream it means is decided by the proxy.

    Attributes:
        namespace: the value of ``?ns=`` (containerd), or None.
        name: the repository path of the URL; its first component may be an upstream's name.
        authorization: the client's own ``Authorization``, for upstreams that want it; never logged, never on disk.
    """

    namespace: str | None
    name: str
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """A manifest's stored bytes. ``warning`` goes to the user as ``Warning: 299`` (a stale answer).

    ``is_kept``: it was here, rather than asked for.
    """

    digest: Digest
    media_type: str
    body: bytes
    warning: str | None = None
    is_kept: bool = True


class RegistryBackend(Protocol):
    """Five methods; each raises the tree of ``imagedist.errors`` and the surface renders it as OCI error JSON."""

    async def manifest(self, target: Target, reference: str) -> ManifestAnswer:
        """By tag or digest."""

    async def blob_size(self, target: Target, digest: Digest) -> int:
        """For HEAD: the true length; fetches nothing but the answer to the question."""

    async def open_blob(self, target: Target, digest: Digest) -> OpenBlob: ...

    async def tags(self, target: Target, query: Mapping[str, str]) -> Page:
        """Args:
        query: the URL's: ``n`` (a number, if there) and ``last``, and what a link of the upstream's may add.
        """

    async def referrers(self, target: Target, digest: Digest, query: Mapping[str, str]) -> Page:
        """Args:
        query: the URL's: ``artifactType``, and what a link of the upstream's may add.
        """
