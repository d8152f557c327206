"""`imagedist nodes` beside a whole site: what the agents say of themselves, pauses, forgetting."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp

from imagedist import __version__
from imagedist.agent.protocol import PullRequest
from tests.support.command import imagedist
from tests.support.layers import directory, file, image
from tests.support.site import REGISTRY, Site

BUILT = image([[directory("etc"), file("etc/a", b"a" * 200_000)], [file("b", b"b" * 100_000)]])


async def listed(site: Site, *options: str) -> list[dict[str, object]]:
    done = await imagedist("nodes", "--seeder", f"http://{site.seeder}", "--json", *options)
    assert done.exit_code == 0, done.complaint
    nodes: list[dict[str, object]] = json.loads(done.output)["nodes"]
    return nodes


async def known(site: Site, count: int) -> None:
    """Returns when the site knows so many nodes."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(60):
        while True:
            async with http.get(f"http://{site.seeder}/site/v1/nodes") as answer:
                if len((await answer.json())["nodes"]) == count:
                    return


async def test_nodes_are_listed_with_what_they_are_paused_and_forgotten(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.put(BUILT, "team/app", "1")
        kept = {"node_blobs": tmp_path / "kept", "labels": {"zone": "a"}}
        async with site.agent(agent=kept) as (agent, _, _):
            await asyncio.to_thread(lambda: agent.pull(pull_request(), lambda event: None))
        async with site.agent(agent=kept), site.agent(agent={"labels": {"zone": "b"}}):
            await known(site, 3)
            nodes = await listed(site)
            assert len(await listed(site, "--label", "zone=b")) == 1
            again = [node for node in nodes if node["cached_blobs"]]
            assert len(again) == 1
            assert again[0]["version"] == __version__
            assert again[0]["labels"] == {"zone": "a"}
            assert {"blobs", "storage"} == set(again[0]["disks"])  # type: ignore[arg-type]

            where = ("--seeder", f"http://{site.seeder}")
            done = await imagedist("nodes", "pause", again[0]["id"], *where)
            assert (done.exit_code, "alive" in done.output, "paused" in done.output) == (0, False, True)
            assert [node["is_paused"] for node in await listed(site, "--label", "zone=a")].count(True) == 1
            done = await imagedist("nodes", "resume", again[0]["id"], *where)
            assert (done.exit_code, "1 node\n" in done.output) == (0, True)
            done = await imagedist("nodes", "forget", nodes[0]["id"], *where)
            assert (done.exit_code, done.output) == (0, f"forgotten {nodes[0]['id']}\n")
            done = await imagedist("nodes", "pause", "nobody", *where)
            assert (done.exit_code, done.complaint.count("\n")) == (1, 1)
            assert "no node nobody in the site's inventory" in done.complaint
            done = await imagedist("nodes", *where)
            assert "STORE FREE" in done.output


def pull_request() -> PullRequest:
    return PullRequest(reference=f"{REGISTRY}/team/app:1")
