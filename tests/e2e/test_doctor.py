"""A node is broken in one way after the other, and the doctor names each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.network import Network, deployment
from bench.network.deployment import Agent, Site
from bench.processes import environment

pytestmark = [pytest.mark.e2e("docker-registry"), pytest.mark.network]

_CONFIGURED_BY_NOBODY = {"runtime-unconfigured", "runtime-problem"}
"""The machine's own runtimes are no part of the node."""


@pytest.fixture(scope="module")
def node() -> Iterator[tuple[Site, Agent]]:
    directory = Path(tempfile.mkdtemp(prefix="doctor-", dir="/dev/shm"))
    try:
        with Network() as network, ExitStack() as stack:
            bj = network.site("bj")
            upstream = stack.enter_context(deployment.registry(bj.node("registry"), directory / "upstream"))
            site = stack.enter_context(deployment.site(bj.node("site"), directory / "site", upstream))
            yield site, stack.enter_context(deployment.agent(bj.node("n1"), directory / "n1", site))
    finally:
        shutil.rmtree(directory)


def examine(agent: Agent, config: Path | None = None) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, and code → severity and words of what is not fine."""
    command = agent.command("doctor", "--json", "--config", str(config or agent.directory / "agent.toml"))
    done = subprocess.run(agent.node.command(command), capture_output=True, env=environment(), check=False, timeout=120)
    told = json.loads(done.stdout)["findings"]
    found = {one["code"]: (one["severity"], one["what"]) for one in told if one["severity"] != "ok"}
    return done.returncode, {code: one for code, one in found.items() if code not in _CONFIGURED_BY_NOBODY}


def test_a_sound_node_has_no_problem_and_its_canary_reached_the_registry(node: tuple[Site, Agent]) -> None:
    _, agent = node
    said = agent.imagedist("doctor", "--config", str(agent.directory / "agent.toml"))
    assert " → proxy/" in said
    assert " → upstream answered" in said
    assert f"the site reaches this node's peer port at {agent.node.address}:6882" in said
    assert examine(agent) == (0, {})


def test_peer_ports_behind_firewalls_are_named_each(node: tuple[Site, Agent]) -> None:
    site, agent = node
    agent.node.block(6882)
    site.node.block(6881)
    try:
        status, found = examine(agent)
    finally:
        agent.node.unblock(6882)
        site.node.unblock(6881)
    assert (status, set(found)) == (1, {"peer-port-blocked", "seeder-peer-port"})
    assert "timed out" in found["peer-port-blocked"][1]
    assert "no answer" in found["seeder-peer-port"][1]


def test_a_seeder_that_hangs_is_named_in_bounded_time(node: tuple[Site, Agent]) -> None:
    site, agent = node
    os.kill(site.seeder_process, signal.SIGSTOP)
    try:
        status, found = examine(agent)
    finally:
        os.kill(site.seeder_process, signal.SIGCONT)
    assert status == 1
    assert found["seeder-unreachable"][0] == "bad"
    assert "no answer within" in found["seeder-unreachable"][1]


def test_a_wrong_token_is_named(node: tuple[Site, Agent]) -> None:
    site, agent = node
    wrong = agent.directory / "wrong.token"
    wrong.write_text("wrong\n")
    config = agent.directory / "wrong.toml"
    config.write_text((agent.directory / "agent.toml").read_text().replace(str(site.token_file), str(wrong)))
    status, found = examine(agent, config)
    assert (status, set(found)) == (1, {"token-refused"})


def test_a_dead_proxy_then_a_dead_agent_are_named(node: tuple[Site, Agent]) -> None:
    site, agent = node
    os.kill(site.proxy_process, signal.SIGKILL)
    status, found = examine(agent)
    assert status == 1
    assert found["proxy-unreachable"][0] == "bad"
    assert "refused" in found["proxy-unreachable"][1]

    os.kill(agent.process, signal.SIGKILL)
    status, found = examine(agent)
    assert status == 1
    assert {"agent-silent", "mirror-unanswered", "proxy-unreachable"} <= set(found)
