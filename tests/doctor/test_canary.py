"""The canary through the mirror."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagedist import __version__
from imagedist.config import parse_address
from imagedist.doctor import canary
from imagedist.hops import HEADER
from tests.doctor.servers import answering
from tests.support.site import REGISTRY, Site


async def test_it_is_answered_by_agent_proxy_and_upstream(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, site.agent() as (_, mirror, _):
        address = parse_address(mirror)
        (answered,) = await canary.mirror(address)
        assert (answered.severity, answered.code) == ("ok", "mirror")

        found = await canary.through(address, REGISTRY)

    assert (found.severity, found.code) == ("ok", "canary")
    assert f"agent/{__version__} → proxy/{__version__} → upstream" in found.what


async def test_it_says_how_far_it_got_when_the_upstream_is_gone(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, site.agent() as (_, mirror, _):
        await site.stop_upstream()
        found = await canary.through(parse_address(mirror), REGISTRY)
    assert (found.severity, found.code) == ("bad", "canary-failed")
    assert f"as far as agent/{__version__} → proxy/{__version__}: HTTP 502" in found.what
    assert "proxy.toml" in found.fix


async def test_it_says_how_far_it_got_when_the_proxy_is_gone(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, site.agent() as (_, mirror, _):
        await site.stop_proxy()
        found = await canary.through(parse_address(mirror), REGISTRY)
    assert (found.severity, found.code) == ("bad", "canary-failed")
    assert f"as far as agent/{__version__}: HTTP 502" in found.what


async def test_a_mirror_that_nobody_answers_is_a_problem() -> None:
    async with answering() as address:
        pass
    (found,) = await canary.mirror(address)
    assert (found.severity, found.code) == ("bad", "mirror-unanswered")


async def test_another_program_on_the_mirrors_port_is_a_problem_that_names_it() -> None:
    async with answering(headers={"Server": "nginx/1.22"}) as address:
        (found,) = await canary.mirror(address)
    assert (found.severity, found.code) == ("bad", "mirror-stranger")
    assert "nginx/1.22" in found.what


async def test_a_proxy_on_the_mirrors_port_is_no_agent() -> None:
    async with answering(headers={HEADER: "proxy/0.1.0"}) as address:
        (found,) = await canary.mirror(address)
    assert found.code == "mirror-stranger"


@pytest.mark.parametrize("status", [401, 403])
async def test_docker_hubs_denial_of_unknown_names_is_an_answer(status: int) -> None:
    async with answering(status=status, headers={HEADER: "agent/0.1.0, proxy/0.1.0, upstream"}) as address:
        found = await canary.through(address, "docker.io")
    assert (found.severity, found.code) == ("ok", "canary")
