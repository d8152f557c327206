from __future__ import annotations

import pytest

from imagedist.fetch.registry import RegistrySource
from imagedist.oci.digest import Digest
from imagedist.oci.reference import Reference
from tests.support.registry import FaultyRegistry

BEHIND = Reference.parse("registry.invalid/team/app:1")
"""Nobody knows this name (RFC 6761 §6.4)."""


async def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FaultyRegistry() as proxy:
        proxy.add_manifest("team/app", "1", b"{}")
        monkeypatch.setenv("http_proxy", proxy.url)
        source = RegistrySource(BEHIND, plain_http=True)
        try:
            assert (await source.manifest(BEHIND)).digest == Digest.of(b"{}")
        finally:
            await source.close()


async def test_a_registry_is_asked_directly_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with FaultyRegistry() as registry:
        registry.add_manifest("team/app", "1", b"{}")
        reference = Reference.parse(f"{registry.url.removeprefix('http://')}/team/app:1")
        source = RegistrySource(reference, plain_http=True)
        try:
            assert (await source.manifest(reference)).body == b"{}"
        finally:
            await source.close()
