"""A site whose proxy speaks HTTPS by an authority of its own: nodes, the command line, and who does not know it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import aiohttp
import pytest

from imagedist.config import Address, ProxyConfig
from imagedist.errors import ImagedistError, SourceError
from imagedist.oci.tls import Tls
from imagedist.service import ServerTls, serving
from registry_proxy.app import create_app
from seeder.sync.proxy import SiteProxy
from tests.integration.test_site import BUILT, REFERENCE, check_tree, pull
from tests.support.certificates import Authority
from tests.support.site import REGISTRY, Site


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def site(tmp_path: Path, authority: Authority) -> Site:
    site = Site(tmp_path / "site")
    site.proxy_tls = ServerTls(*authority.issue("proxy"))
    return site


def trusting(site: Site, authority: Authority) -> dict[str, object]:
    return {"site_proxies": [f"https://{site.proxy}"], "site_ca_file": authority.ca}


async def test_nodes_pull_through_an_https_proxy_and_share_by_the_swarm(site: Site, authority: Authority) -> None:
    async with site:
        site.put(BUILT, "team/app", "1")
        keys = trusting(site, authority)
        async with site.agent(agent=keys) as (first, mirror, store), site.agent(agent=keys) as (second, _, other_store):
            await pull(first)
            check_tree(store)
            received = (await pull(second)).received_bytes or {}
            check_tree(other_store)
            async with aiohttp.ClientSession() as client, client.get(f"http://{mirror}/readyz") as response:
                assert response.status == 200
    assert received.get("peer", 0) + received.get("seeder", 0) > 0
    assert set(site.upstream.blob_gets.values()) == {1}


async def test_a_node_that_does_not_know_the_authority_says_so(site: Site) -> None:
    async with site:
        site.put(BUILT, "team/app", "1")
        async with site.agent(agent={"site_proxies": [f"https://{site.proxy}"]}) as (client, _, _):
            with pytest.raises(ImagedistError, match="certificate verify failed"):
                await pull(client)


async def test_the_command_line_takes_the_authority_from_the_environment(
    site: Site, authority: Authority, tmp_path: Path
) -> None:
    async with site:
        site.put(BUILT, "team/app", "1")
        root = tmp_path / "root"
        argv = ["-m", "imagedist", "pull", REFERENCE, "--via", f"https://{site.proxy}", "--root", str(root)]
        for trusted in (None, authority.ca):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *argv,
                "--no-agent",
                env={**os.environ, **({"SSL_CERT_FILE": str(trusted)} if trusted else {})},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await process.communicate()
            if trusted is None:
                assert process.returncode == 1
                assert b"certificate verify failed" in output
            else:
                assert process.returncode == 0, output
                check_tree(root)


async def test_a_seeder_asks_an_https_proxy_what_there_is(site: Site, authority: Authority) -> None:
    async with site:
        site.put(BUILT, "team/app", "1")
        for tls in (Tls(authority.ca), None):
            proxy = SiteProxy([f"https://{site.proxy}"], "bj", None, tls)
            try:
                if tls is None:
                    with pytest.raises(SourceError, match="certificate verify failed"):
                        await proxy.tags(REGISTRY, "team/app")
                else:
                    assert await proxy.tags(REGISTRY, "team/app") == ["a", "b"]  # as the fake registry lists
                    assert (await proxy.upstreams()).upstreams
            finally:
                await proxy.close()


async def test_a_node_that_is_alone_uses_the_https_proxy_as_a_web_seed(site: Site, authority: Authority) -> None:
    async with site:
        site.put(BUILT, "team/app", "1")
        keys = trusting(site, authority)
        async with site.agent(agent=keys) as (first, _, _):
            await pull(first)
        await site.stop_seeder()
        async with site.agent(agent=keys) as (second, _, store):
            received = (await pull(second)).received_bytes or {}
            check_tree(store)
    assert received.get("webseed", 0) > 0


async def test_proxies_tell_each_other_of_a_purge_by_https(tmp_path: Path, authority: Authority) -> None:
    tls = ServerTls(*authority.issue("proxy"))

    def config(name: str, *others: str) -> ProxyConfig:
        table = {
            "listen": "127.0.0.1:0",
            "site_blobs": tmp_path / name,
            "site_proxies": [f"https://{other}" for other in others],
            "site_ca_file": authority.ca,
        }
        return ProxyConfig.model_validate({"proxy": table, "upstreams": {"up": {"url": "http://127.0.0.1:1"}}})

    async with serving(create_app(config("one")), Address("127.0.0.1", 0), tls=tls) as other:
        async with serving(create_app(config("two", str(other))), Address("127.0.0.1", 0), tls=tls) as first:
            async with aiohttp.ClientSession() as client:
                url = f"https://{first}/site/v1/tags?repo=up/team/app"
                async with client.delete(url, ssl=authority.client_context()) as response:
                    assert (response.status, (await response.json())["proxies"]) == (200, 2)
