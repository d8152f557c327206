"""`imagedist preheat` beside a whole site: agents bring what a rule wants, and status says what is true."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imagedist.agent.protocol import PullRequest
from imagedist.overlay.store import OverlayStore
from tests.support.command import Done, imagedist
from tests.support.layers import directory, file, image
from tests.support.site import REGISTRY, Site

LAYERS = [[directory("etc"), file("etc/a", os.urandom(200_000))], [file("b", os.urandom(100_000))]]
BASE, APP = image(LAYERS), image([*LAYERS, [file("c", os.urandom(50_000))]])
CHECK = {"preheat_check": "100ms", "heartbeat": "200ms"}


@asynccontextmanager
async def started(directory: Path, gone_after: str = "10m") -> AsyncIterator[Site]:
    made = Site(directory)
    made.seeder_tables = {"nodes": {"gone_after": gone_after}}
    directory.mkdir()
    async with made:
        made.put(BASE, "team/base", "1")
        yield made


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with started(tmp_path / "s") as made:
        yield made


def rule(directory: Path, **more: object) -> Path:
    """A rule's file."""
    lines = ['name = "base"', *(f"{key} = {json.dumps(value)}" for key, value in more.items() if key != "tables")]
    if "images" not in more:
        lines.append(f'images = ["{REGISTRY}/team/base:1"]')
    path = directory / "rule.toml"
    path.write_text("\n".join([*lines, str(more.get("tables", ""))]))
    return path


async def preheat(site: Site, *words: object) -> Done:
    return await imagedist("preheat", *words, "--seeder", f"http://{site.seeder}")


async def get(site: Site, path: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.get(f"http://{site.seeder}/site/v1/{path}") as answer:
        found: dict[str, Any] = await answer.json()
        return found


async def status(site: Site, name: str = "base") -> dict[str, Any]:
    return await get(site, f"preheats/{name}?layers")


async def until(site: Site, **outcomes: int) -> dict[str, Any]:
    """Returns when so many nodes stand like that."""
    async with asyncio.timeout(60):
        while (found := await status(site))["counts"] != outcomes:  # noqa: ASYNC110  # nobody tells when
            await asyncio.sleep(0.02)
    return found


async def known(site: Site, count: int) -> None:
    """Returns when the site knows so many nodes."""
    async with asyncio.timeout(60):
        while len((await get(site, "nodes"))["nodes"]) != count:  # noqa: ASYNC110  # nobody tells when
            await asyncio.sleep(0.02)


async def test_a_run_ends_with_0_when_every_node_has_it_unpacked_and_again_moves_nothing(
    site: Site, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        stores = [(await stack.enter_async_context(site.agent(agent=CHECK)))[2] for _ in range(3)]
        await known(site, 3)
        done = await preheat(site, "run", rule(tmp_path), "--wait")
        assert done.exit_code == 0, done.output + done.complaint
        assert "3: 3 done" in done.output
        for store in stores:
            assert [each.names for each in OverlayStore(store).images()] == [(f"{REGISTRY}/team/base:1",)]
        served = site.upstream.bytes_sent
        again = await preheat(site, "run", rule(tmp_path), "--wait", "--json")
        status = json.loads(again.output)
        assert (again.exit_code, status["run"], status["received_bytes"]) == (0, 2, 0)
        assert site.upstream.bytes_sent == served
        shown = await preheat(site, "status", "base", "--json")
        assert shown.exit_code == 0
        nodes = json.loads(shown.output)["nodes"]
        assert [node["outcome"] for node in nodes] == ["done"] * 3
        assert all(layer["is_unpacked"] for node in nodes for layer in node["images"][0]["layers"])
        assert "2 of 2" in (await preheat(site, "status", "base")).output


async def test_what_went_away_is_repaired_and_pinned_until_the_rule_goes(site: Site, tmp_path: Path) -> None:
    kept = tmp_path / "cache"
    async with site.agent(agent={**CHECK, "node_blobs": kept}) as (_, _, store):
        await known(site, 1)
        written = rule(tmp_path, into=["blobs", "storage"])
        assert (await preheat(site, "run", written, "--wait")).exit_code == 0
        layer = max(BASE.blobs, key=lambda digest: len(BASE.blobs[digest]))
        diff = OverlayStore(store).diffs(OverlayStore(store).images()[0])[0]
        (kept / "blobs" / "sha256" / layer.hex).unlink()
        shutil.rmtree(diff)
        async with asyncio.timeout(60):
            while not (diff / "etc/a").exists() or not (kept / "blobs" / "sha256" / layer.hex).exists():
                await status(site)
        await until(site, done=1)

        name = f"{REGISTRY}/team/base:1"
        refused = await imagedist("rm", name, "--root", store)
        assert (refused.exit_code, "pinned by preheat base" in refused.complaint) == (2, True)
        assert (await imagedist("gc", "--quota", "0", "--root", store)).exit_code == 0
        assert len(OverlayStore(store).images()) == 1
        assert (await preheat(site, "remove", "base")).output == "removed preheat base\n"
        async with asyncio.timeout(60):
            while (await imagedist("rm", name, "--root", store)).exit_code:
                pass
        assert OverlayStore(store).images() == []
        gone = await preheat(site, "status", "base")
        assert (gone.exit_code, gone.complaint) == (1, "imagedist: no preheat base at this site; there is: none\n")


async def test_a_rule_that_only_reports_says_missing_and_its_next_run_repairs(site: Site, tmp_path: Path) -> None:
    async with site.agent(agent=CHECK) as (_, _, store):
        await known(site, 1)
        written = rule(tmp_path, missing="report", pin=False)
        assert (await preheat(site, "run", written, "--wait")).exit_code == 0
        async with asyncio.timeout(60):
            while (found := await status(site))["counts"] != {"missing": 1}:  # once it is noted that it was there
                await imagedist("rm", f"{REGISTRY}/team/base:1", "--root", store)
        assert [each["missing"] for each in found["nodes"][0]["images"]] == [["storage"]]
        assert OverlayStore(store).images() == []
        shown = await preheat(site, "status", "base", "--node", found["nodes"][0]["id"])
        assert (shown.exit_code, "missing (storage)" in shown.output) == (1, True)
        assert (await preheat(site, "run", written, "--wait")).exit_code == 0
        assert len(OverlayStore(store).images()) == 1


async def test_a_gone_node_and_one_without_room_are_named_and_later_nodes_catch_up(tmp_path: Path) -> None:
    async with started(tmp_path / "s", gone_after="10s") as site:
        labels = {"labels": {"zone": "a"}}
        small = {**CHECK, **labels, "node_blobs_quota": 150_000}
        async with site.agent(agent={**CHECK, **labels}), site.agent(agent=small), site.agent(agent=CHECK):
            async with site.agent(agent={**CHECK, **labels}):
                await known(site, 4)
            tables = '[nodes]\nlabels = { zone = "a" }\n[waves]\nsize = 1'
            written = rule(tmp_path, into=["blobs"], tables=tables)
            done = await preheat(site, "run", written, "--wait")
            assert done.exit_code == 1
            assert "nodes     3: 1 done, 1 failed, 1 gone" in done.output
            (failed,) = [line for line in done.output.splitlines() if ": failed, " in line]
            assert "no room for" in failed
            assert sum(": gone, not heard of for" in line for line in done.output.splitlines()) == 1
            async with site.agent(agent={**CHECK, **labels}):
                await until(site, done=2, failed=1, gone=1)


async def test_a_paused_rule_rests_and_a_cancelled_one_ends(site: Site, tmp_path: Path) -> None:
    written = rule(tmp_path)
    done = await preheat(site, "run", written)
    assert (done.exit_code, "no node of the site has the rule's labels" in done.output) == (1, True)
    assert (await preheat(site, "pause", "base")).exit_code == 0
    async with site.agent(agent=CHECK) as (_, _, store):
        await known(site, 1)
        assert (await status(site))["state"] == "paused"
        assert (await status(site))["counts"] == {"waiting": 1}
        assert (await preheat(site, "cancel", "base")).exit_code == 0
        assert (await status(site))["state"] == "cancelled"
        refused = await preheat(site, "resume", "base")
        assert (refused.exit_code, "was cancelled" in refused.complaint) == (2, True)
        assert OverlayStore(store).images() == []
        assert (await preheat(site, "run", written, "--wait")).exit_code == 0
        assert "base" in (await preheat(site, "status")).output


async def test_an_image_that_is_not_there_is_a_problem_and_patterns_and_measured_layers_find_theirs(
    site: Site, tmp_path: Path
) -> None:
    site.put(APP, "team/app", "1")
    async with site.agent(agent={**CHECK, "labels": {"zone": "a"}}) as (agent, _, _):
        await known(site, 1)
        images = [f"{REGISTRY}/team/nope:1", f"{REGISTRY}/other/*:*", f"{REGISTRY}/team/base:1"]
        done = await preheat(site, "run", rule(tmp_path, images=images), "--wait")
        assert done.exit_code == 1
        problems = [line for line in done.output.splitlines() if line.startswith("problem")]
        assert ["team/nope:1" in problems[0] or "team/nope:1" in problems[1], len(problems)] == [True, 2]
        assert any("matches no tag that the site knows" in line for line in problems)
        assert "1: 1 done" in done.output

        await asyncio.to_thread(lambda: agent.pull(PullRequest(reference=f"{REGISTRY}/team/app:1"), lambda event: None))
        images = [f"{REGISTRY}/team/*:1"]
        done = await preheat(site, "run", rule(tmp_path, images=images), "--wait", "--json")
        assert done.exit_code == 0
        wanted = [image["reference"] for image in json.loads(done.output)["images"]]
        assert wanted == [f"{REGISTRY}/team/app:1", f"{REGISTRY}/team/base:1"]

        suggested = await preheat(site, "suggest", "--share", "1.0")
        assert suggested.exit_code == 0
        (tmp_path / "suggested.toml").write_text(suggested.output)
        done = await preheat(site, "run", tmp_path / "suggested.toml", "--wait", "--json")
        assert done.exit_code == 0, done.output + suggested.output
        assert [image["reference"] for image in json.loads(done.output)["images"]] == [f"{REGISTRY}/team/base:1"]
        measured = rule(tmp_path, images=[], tables="[measured]\nshare = 1.0")
        done = await preheat(site, "run", measured, "--wait", "--json")
        assert [image["reference"] for image in json.loads(done.output)["images"]] == [f"{REGISTRY}/team/base:1"]


async def test_one_command_at_a_time_runs_a_file(site: Site, tmp_path: Path) -> None:
    written = rule(tmp_path)
    with written.open() as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        refused = await preheat(site, "run", written, "--wait")
    assert (refused.exit_code, "is at work already" in refused.complaint) == (1, True)
