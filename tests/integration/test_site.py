"""The main job with real sockets in one process: registry, proxy, swarm, agents, overlay storage."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import aiohttp
import prometheus_client
import pytest

from imagedist.agent.client import AgentClient
from imagedist.agent.protocol import PullRequest
from imagedist.errors import ImagedistError, InputError
from imagedist.oci.digest import Digest
from imagedist.oci.image import Image
from imagedist.overlay.store import OverlayStore
from imagedist.progress import Event, ignore
from tests.support import layers
from tests.support.site import REGISTRY, Site
from tests.support.waiting import until

REFERENCE = f"{REGISTRY}/team/app:1"


def incompressible(size_bytes: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


BUILT = layers.image(
    [
        [layers.directory("bin"), layers.file("bin/app", incompressible(3 << 20, 1))],
        [layers.file("etc", b"small")],
        [layers.directory("bin"), layers.whiteout("bin/app"), layers.file("bin/new", incompressible(2 << 20, 2))],
    ]
)
LARGE = [layer.descriptor.digest for layer in BUILT.image.layers if layer.descriptor.size_bytes > 1 << 20]


async def pull(client: AgentClient, reference: str = REFERENCE) -> Event:
    return await asyncio.to_thread(client.pull, PullRequest(reference=reference), ignore)


def check_tree(store: Path, image: Image = BUILT.image) -> None:
    opened = OverlayStore(store)
    assert sorted(opened.tree(opened.find(REFERENCE))) == ["bin", "bin/new", "etc"]
    assert opened.find(REFERENCE).id == image.id.hex


async def test_second_node_gets_its_bytes_from_the_swarm_and_upstream_sends_each_blob_once(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.put(BUILT, "team/app", "1")
        async with site.agent() as (first, _, first_store), site.agent() as (second, _, second_store):
            done = await pull(first)
            assert done.bytes == BUILT.image.size_bytes
            check_tree(first_store)
            received = (await pull(second)).received_bytes or {}
            check_tree(second_store)
    from_swarm = received.get("peer", 0) + received.get("seeder", 0)
    assert from_swarm == sum(len(BUILT.blobs[digest]) for digest in LARGE)
    assert set(site.upstream.blob_gets.values()) == {1}


async def test_no_node_announces_a_torrent_before_the_tracker_knows_it(tmp_path: Path) -> None:
    def announces(outcome: str) -> float:
        return (
            prometheus_client.REGISTRY.get_sample_value("imagedist_tracker_announces_total", {"outcome": outcome}) or 0
        )

    refused, all_before = announces("unknown"), announces("unknown") + announces("answered")
    async with Site(tmp_path) as site, aiohttp.ClientSession() as client:
        digests = [site.upstream.add_blob(incompressible(1 << 20, number) + b"x") for number in range(8)]
        async with site.agent() as (_, mirror, _):

            async def fetch(digest: Digest) -> None:
                async with client.get(f"http://{mirror}/v2/team/app/blobs/{digest}") as response:
                    assert len(await response.read()) == (1 << 20) + 1

            await asyncio.gather(*map(fetch, digests))
            await until(lambda: announces("unknown") + announces("answered") >= all_before + len(digests))
    assert announces("unknown") == refused


async def test_a_nodes_torrents_say_how_far_they_are(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.put(BUILT, "team/app", "1")
        async with site.agent() as (first, _, _), site.agent() as (second, _, _):
            await pull(first)
            await pull(second)
            rows = (await asyncio.to_thread(second.transfers)).transfers
    assert {row.digest for row in rows} == set(LARGE)
    assert all(row.is_complete for row in rows)
    assert all(sum(row.received_bytes.values()) == row.size_bytes for row in rows)


async def test_nodes_are_served_by_the_site_when_upstream_is_gone(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.put(BUILT, "team/app", "1")
        async with site.agent() as (first, _, _), site.agent() as (second, _, store):
            await pull(first)
            await site.stop_upstream()
            await pull(second)
            check_tree(store)


async def test_a_node_completes_without_the_seeder(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.put(BUILT, "team/app", "1")
        async with site.agent() as (first, _, _), site.agent() as (second, _, store):
            await pull(first)
            await site.stop_seeder()
            received = (await pull(second)).received_bytes or {}
            check_tree(store)
    assert received.get("webseed", 0) > 0  # alone: no tracker to find peers by, so the proxy helps out


async def test_without_a_site_a_pull_says_that_no_proxy_answers_and_stores_nothing(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.put(BUILT, "team/app", "1")
        async with site.agent() as (client, _, store):
            await site.stop_proxy()
            with pytest.raises(ImagedistError, match="the site cannot answer"):
                await pull(client)
            assert OverlayStore(store).images() == []


async def test_an_unknown_tag_is_named_and_nothing_is_stored(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        async with site.agent() as (client, _, store):
            with pytest.raises(ImagedistError, match="team/app:nope"):
                await pull(client, f"{REGISTRY}/team/app:nope")
            assert OverlayStore(store).images() == []


async def test_a_registry_the_site_does_not_serve_is_told_with_those_it_does(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        async with site.agent() as (client, _, _):
            with pytest.raises(ImagedistError, match=r"no upstream for ns=quay\.io; configured: registry\.example"):
                await pull(client, "quay.io/x/y:1")


async def test_a_bad_reference_is_the_users_mistake(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        async with site.agent() as (client, _, _):
            with pytest.raises(InputError, match="not a repository name"):
                await pull(client, "registry.example/UPPER:1")


async def test_the_sites_names_for_registries_are_known_to_the_node(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        async with site.agent() as (client, _, _):
            assert await asyncio.to_thread(client.prefix, "registry.local:5000") == REGISTRY
            with pytest.raises(InputError, match="serves no registry nowhere"):
                await asyncio.to_thread(client.prefix, "nowhere")


async def test_a_restarted_agent_seeds_what_its_cache_holds(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.put(BUILT, "team/app", "1")
        blobs = {"node_blobs": tmp_path / "kept"}
        async with site.agent(agent=blobs) as (client, _, _), site.agent() as (other, _, _):
            await pull(other)
            await pull(client)  # over the swarm: the torrents are kept
        await site.stop_seeder()
        async with site.agent(agent=blobs) as (client, _, _):
            status = await asyncio.to_thread(client.status)
            assert status.received_bytes == {}
            await pull(client)
            assert (await asyncio.to_thread(client.status)).received_bytes.get("peer", 0) == 0


@pytest.mark.parametrize("fault", ["corrupt", "cut"])
async def test_wrong_bytes_from_upstream_never_reach_a_store(tmp_path: Path, fault: str) -> None:
    async with Site(tmp_path) as site:
        site.put(BUILT, "team/app", "1")
        if fault == "corrupt":
            site.upstream.corrupt = True
        else:
            site.upstream.cuts = [100_000] * 100
        async with site.agent() as (client, _, store):
            with pytest.raises(ImagedistError):
                await pull(client)
            assert OverlayStore(store).images() == []
            blobs = {path.name for path in (tmp_path / "site" / "blobs" / "sha256").iterdir()}
            assert not blobs & {digest.hex for digest in LARGE}


async def test_the_site_knows_its_nodes_by_their_heartbeats(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, site.agent() as (agent, _, _):
        port = int((await asyncio.to_thread(agent.status)).bittorrent.rpartition(":")[2])
        async with aiohttp.ClientSession() as http, asyncio.timeout(60):
            nodes: list[dict[str, object]] = []
            while not nodes:
                async with http.get(f"http://{site.seeder}/site/v1/nodes") as answer:
                    nodes = (await answer.json())["nodes"]
    (node,) = nodes
    assert (node["address"], node["peer_port"]) == ("127.0.0.1", port)
