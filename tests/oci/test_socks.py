from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from imagedist.errors import SourceError
from imagedist.fetch.registry import RegistrySource
from imagedist.oci.client import RegistryClient
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.proxies import parse_proxy
from imagedist.oci.reference import Reference
from tests.support.registry import FaultyRegistry
from tests.support.socks import SocksProxy

CONTENT = os.urandom(3_000_000)


def through(scheme: str, proxy: SocksProxy, login: str = "") -> AiohttpClient:
    at = parse_proxy(f"{scheme}://{login}127.0.0.1:{proxy.port}", "proxy")
    return AiohttpClient(find_proxy=lambda url: at)


async def test_names_are_left_to_the_proxy_if_it_is_told_so() -> None:
    async with FaultyRegistry() as registry, SocksProxy() as proxy:
        digest = registry.add_blob(CONTENT)
        url = registry.url.replace("127.0.0.1", "registry.invalid")
        taken = bytearray()
        async with RegistryClient(url, http=through("socks5h", proxy)) as client:
            with ThreadPoolExecutor(1) as threads:
                async with client.blob("a", digest) as stream:
                    await stream.deliver(taken.extend, threads)
            assert await client.blob_bytes("a", digest, len(CONTENT)) == CONTENT
    assert bytes(taken) == CONTENT
    assert set(proxy.asked) == {"registry.invalid"}


async def test_names_are_resolved_here_otherwise() -> None:
    async with FaultyRegistry() as registry, SocksProxy() as proxy:
        registry.add_manifest("a", "1", b"{}")
        url = registry.url.replace("127.0.0.1", "localhost")
        async with RegistryClient(url, http=through("socks5", proxy)) as client:
            assert (await client.manifest("a", "1")).body == b"{}"
    assert proxy.asked == ["127.0.0.1"]


async def test_proxy_may_want_a_login() -> None:
    async with FaultyRegistry() as registry, SocksProxy(("me", "s:cret")) as proxy:
        registry.add_manifest("a", "1", b"{}")
        async with RegistryClient(registry.url, http=through("socks5h", proxy, "me:s%3Acret@")) as client:
            assert (await client.manifest("a", "1")).body == b"{}"


async def no_nap(seconds: float) -> None:
    """Retries come at once."""


@pytest.mark.parametrize("fault", ["refuses", "login", "gone"])
async def test_failing_proxy_is_named_without_its_password(fault: str) -> None:
    proxy = SocksProxy(("me", "secret") if fault == "login" else None, refuses=fault == "refuses")
    async with FaultyRegistry() as registry, proxy:
        http = through("socks5h", proxy, "you:secret2@")
        if fault == "gone":
            await proxy.__aexit__()
        async with RegistryClient(registry.url, http=http, sleep=no_nap) as client:
            with pytest.raises(SourceError, match=rf"SOCKS proxy 127\.0\.0\.1:{proxy.port}: ") as caught:
                await client.manifest("a", "1")
        assert "secret" not in str(caught.value)
        assert not registry.requests


async def test_own_pull_of_a_node_goes_through_all_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FaultyRegistry() as registry, SocksProxy() as proxy:
        registry.add_manifest("team/app", "1", b"{}")
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{proxy.port}")
        reference = Reference.parse(f"registry.invalid:{registry.url.rpartition(':')[2]}/team/app:1")
        source = RegistrySource(reference, plain_http=True)
        try:
            assert (await source.manifest(reference)).body == b"{}"
        finally:
            await source.close()
    assert proxy.asked == ["registry.invalid"]
