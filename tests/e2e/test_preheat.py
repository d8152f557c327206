"""Preheats with real processes: nine nodes of which one is stopped and one has a full disk, kills, real runtimes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from imagedist.demo.layout import BuiltImage
from tests.e2e.conftest import HOSTS
from tests.e2e.node import Node
from tests.e2e.runtimes import Containerd, Docker
from tests.e2e.site import Agent, Site
from tests.e2e.upstream import NAME, Upstream
from tests.support import layouts
from tests.support.layers import file, image
from tests.support.ports import free_port

pytestmark = pytest.mark.e2e("docker-registry", "skopeo")

_WAIT_SECONDS = 120.0
_SEEDER = """\
[nodes]
gone_after = "15s"
"""
_AGENT = """\
heartbeat = "500ms"
preheat_check = "500ms"
runtime_patience = "5s"
"""
_BASE = [[file("base", os.urandom(6 << 20))], [file("more", os.urandom(2 << 20))]]
_SMALL = 12 << 20
"""A disk that has no room for the base image, unpacked: as full as one gets without being of no use at all."""


class Nodes:
    """A site of its own with as many agents as are wanted; each its own process and address."""

    def __init__(self, base: Path, upstream: Upstream) -> None:
        self.base = base
        self.upstream = upstream
        self.site = Site(base / "site", upstream.url, seeder=_SEEDER)
        self.agents: list[Agent] = []

    def add(self, count: int, env: dict[str, str] | None = None) -> list[Agent]:
        first = len(self.agents)
        for number in range(first + 1, first + count + 1):
            home = self.base / f"n{number}"
            listen, peers = f"127.0.0.1:{free_port()}", f"127.0.1.{number}:6882"
            self.agents.append(Agent(home, listen, peers, self.site, _AGENT, env))
        return self.agents[first:]

    def start(self) -> None:
        self.site.start()
        for agent in self.agents:
            agent.launch()
        for agent in self.agents:
            agent.start()
        self.until(lambda: sum(not node["is_gone"] for node in self.listed()) == len(self.agents), "all nodes known")

    def stop(self) -> None:
        for agent in self.agents:
            agent.stop()
        self.site.stop()

    def run(self, *words: object) -> CompletedProcess[str]:
        agent = next(agent for agent in self.agents if agent.pid is not None)
        return agent.try_imagedist(*map(str, words), "--seeder", self.site.seeder.url)

    def listed(self) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = json.loads(self.run("nodes", "--json").stdout)["nodes"]
        return nodes

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("preheat", "status", name, "--json").stdout)
        return found

    def push(self, name: str, layers: Sequence[Any]) -> BuiltImage:
        built = image(layers, compression="none")
        directory = self.base / "images" / name.replace("/", "-").replace(":", "-")
        layouts.write(built, directory, name)
        pushed = BuiltImage(directory, built.image)
        self.upstream.push(pushed, name)
        return pushed

    def rule(self, name: str, tables: str = "", **keys: object) -> Path:
        path = self.base / f"{name}.toml"
        lines = [f'name = "{name}"', *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), tables]
        path.write_text("\n".join(lines))
        return path

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _WAIT_SECONDS
        while not is_so():
            assert time.monotonic() < deadline, what


@pytest.fixture
def nodes(base: Path, registry: Upstream, tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(base / f"preheat-{tmp_path.name[-12:]}", registry)
    try:
        yield made
    finally:
        made.stop()


def _outcomes(status: dict[str, Any]) -> dict[str, str]:
    """By the last number of each node's address."""
    return {node["id"].split("127.0.1.")[1]: node["outcome"] for node in status["nodes"]}


@pytest.mark.timeout(300)
def test_nine_nodes_with_one_stopped_and_one_disk_full_then_repaired_then_scaled_out(nodes: Nodes) -> None:
    base = nodes.push("preheat/base:1", _BASE)
    app = nodes.push("preheat/app:1", [*_BASE, [file("app", os.urandom(1 << 20))]])
    agents = nodes.add(9)
    small = agents[8].storage
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SMALL}", "preheat-test", small], check=True)
    try:
        nodes.start()
        agents[7].stop()
        nodes.until(lambda: any(node["is_gone"] for node in nodes.listed()), "the stopped node is gone")
        tables = '[waves]\nsize = 4\n[limits]\nheadroom = "1MiB"'
        rule = nodes.rule("base", tables, images=[f"{NAME}/preheat/base:1"])

        done = nodes.run("preheat", "run", rule, "--wait")

        assert done.returncode == 1, done.stdout + done.stderr
        assert "nodes     9: 7 done, 1 failed, 1 gone" in done.stdout, done.stdout
        lines = [line for line in done.stdout.splitlines() if line.startswith("node  ")]
        for said in ("127.0.1.8: gone, not heard of for", "127.0.1.9: failed, no room for"):
            assert len([line for line in lines if said in line]) == 1, done.stdout

        subprocess.run(["mount", "-o", "remount,size=1g", small], check=True)
        agents[7].start()
        nodes.until(lambda: not any(node["is_gone"] for node in nodes.listed()), "the stopped node is back")
        before = [agent.received_bytes() for agent in agents]
        done = nodes.run("preheat", "run", rule, "--wait", "--json")
        status = json.loads(done.stdout)
        assert (done.returncode, set(_outcomes(status).values())) == (0, {"done"}), done.stdout
        moved = [
            sum(agent.received_bytes().values()) - sum(old.values()) for agent, old in zip(agents, before, strict=True)
        ]
        assert moved[:7] == [0] * 7, "only what was missing moves"
        assert sum(each > 0 for each in moved[7:]) >= 1
        sent = nodes.upstream.blobs_sent()
        assert {sent[str(layer.descriptor.digest)] for layer in base.image.layers} == {1}

        before = [agent.received_bytes() for agent in agents]
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda agent: agent.imagedist("pull", f"{NAME}/preheat/app:1"), agents))
        moved = [
            sum(agent.received_bytes().values()) - sum(old.values()) for agent, old in zip(agents, before, strict=True)
        ]
        layer = app.image.layers[-1].descriptor
        new_bytes = layer.size_bytes + len(app.image.config_bytes)
        assert all(new_bytes <= each < 2 * new_bytes for each in moved), "only the application's layer moves"
        assert all(f"{NAME}/preheat/app:1" in agent.image_names() for agent in agents)
    finally:
        nodes.stop()
        subprocess.run(["umount", "--lazy", small], check=True)


@pytest.mark.timeout(300)
def test_a_run_goes_on_after_seeder_and_agents_were_killed_in_the_middle_of_it(nodes: Nodes) -> None:
    nodes.push("preheat/killed:1", [[file(f"f{number}", os.urandom(2 << 20))] for number in range(4)])
    agents = nodes.add(3)
    nodes.start()
    tables = '[limits]\nnode = "1MiB/s"\nheadroom = "1MiB"'
    rule = nodes.rule("killed", tables, images=[f"{NAME}/preheat/killed:1"], into=["blobs", "storage"])
    assert nodes.run("preheat", "run", rule).returncode == 1  # it has begun
    nodes.until(lambda: any(sum(agent.received_bytes().values()) > 1 << 20 for agent in agents), "bytes flow")

    nodes.site.seeder.kill()
    agents[0].kill()
    agents[1].kill()
    nodes.site.seeder.start()
    agents[0].start()
    agents[1].start()

    done = nodes.run("preheat", "run", rule, "--wait", "--json")
    status = json.loads(done.stdout)
    assert (done.returncode, status["run"], set(_outcomes(status).values())) == (0, 1, {"done"})
    for agent in agents:
        assert agent.image_names() == [f"{NAME}/preheat/killed:1"]
        assert agent.try_imagedist("rm", f"{NAME}/preheat/killed:1", "--root", str(agent.storage)).returncode == 2


@pytest.fixture
def own_docker(base: Path) -> Iterator[Docker]:
    """One that a test may stop."""
    daemon = Docker(Node(base / "pre", HOSTS))
    yield daemon
    daemon.stop()


@pytest.mark.e2e("docker.io", "containerd", "podman")
@pytest.mark.usefixtures("clean_path")
@pytest.mark.timeout(300)
def test_into_runtimes_is_done_when_they_list_it_and_what_they_lose_comes_back(
    nodes: Nodes, own_docker: Docker, containerd: Containerd
) -> None:
    docker = own_docker
    built = nodes.push("preheat/run:1", [[file("x", os.urandom(1 << 20))]])
    conf = nodes.base / "podman"
    conf.mkdir(parents=True)
    (conf / "containers.conf").write_text('[engine]\nlock_type = "file"\n')
    places = f'graphroot = "{conf}/graph"\nrunroot = "{conf}/run"\n'
    (conf / "storage.conf").write_text(f'[storage]\ndriver = "vfs"\n{places}')
    podman = {"CONTAINERS_CONF": f"{conf}/containers.conf", "CONTAINERS_STORAGE_CONF": f"{conf}/storage.conf"}
    env = {
        "DOCKER_HOST": docker.host,
        "CONTAINERD_ADDRESS": f"{containerd.node.run_directory}/containerd/containerd.sock",
        "HOME": str(nodes.base),
        **podman,
    }
    (agent,) = nodes.add(1, env)
    nodes.start()
    name = f"{NAME}/preheat/run:1"
    tables = '[limits]\nheadroom = "1MiB"'
    rule = nodes.rule("run", tables, images=[name], into=["docker", "containerd", "podman"])

    done = nodes.run("preheat", "run", rule, "--wait")

    assert done.returncode == 0, done.stdout + done.stderr + agent.config.with_name("agent.log").read_text()[-2000:]
    assert docker.image_id(name) == str(built.image.id)
    listed = containerd.run("--namespace", "k8s.io", "images", "ls", f"name=={name}").stdout
    assert str(built.image.manifest_digest) in listed
    assert "io.cri-containerd.pinned=pinned" in listed
    exists = subprocess.run(["podman", "image", "exists", name], env={**os.environ, **podman}, check=False)
    assert exists.returncode == 0

    assert docker.run("rmi", name).returncode == 0
    nodes.until(lambda: docker.run("image", "inspect", name).returncode == 0, "what docker lost is back")
    nodes.until(lambda: nodes.status("run")["is_confirmed"], "and confirmed")

    docker.hang()
    try:
        nodes.until(lambda: "docker" in nodes.status("run")["nodes"][0]["message"], "it is said who does not answer")
        nodes.push("preheat/other:1", [[file("y", os.urandom(1 << 20))]])
        other = nodes.rule("other", tables, images=[f"{NAME}/preheat/other:1"], into=["storage", "containerd"])
        done = nodes.run("preheat", "run", other, "--wait")
        assert done.returncode == 0, f"a dockerd that hangs stalls nothing else: {done.stdout + done.stderr}"
        assert not nodes.status("run")["is_confirmed"]
    finally:
        docker.go_on()
    nodes.until(lambda: nodes.status("run")["is_confirmed"], "what docker has is known again")
    docker.stop()
    nodes.until(lambda: not nodes.status("run")["is_confirmed"], "nobody can tell what docker has")
    status = nodes.status("run")
    nodes.until(lambda: "daemon" in nodes.status("run")["nodes"][0]["message"], f"it is said why: {status['nodes']}")
    assert nodes.run("preheat", "remove", "run").returncode == 0
    nodes.until(
        lambda: "pinned=" not in containerd.run("--namespace", "k8s.io", "images", "ls", f"name=={name}").stdout,
        "containerd may let go of it",
    )
