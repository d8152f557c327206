"""A site and its nodes as machines of their own: every hop between them is a link that counts what it carries."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.network import Link, Network, deployment
from bench.network.deployment import Agent, Registry
from imagedist.demo.image import build
from imagedist.demo.layout import BuiltImage
from imagedist.demo.tree import expected_tree, node_tree
from imagedist.oci.reference import Reference

pytestmark = [pytest.mark.e2e("docker-registry", "skopeo"), pytest.mark.network]

_NODES = 4
_IMAGE_BYTES = 24_000_000
_UPLINK, _NODE_LINK, _SITE_LINK = 200_000_000, 200_000_000, 1_000_000_000


@dataclass(frozen=True)
class Running:
    uplink: Link
    registry: Registry
    agents: list[Agent]
    image: BuiltImage
    reference: str


@pytest.fixture
def running() -> Iterator[Running]:
    directory = Path(tempfile.mkdtemp(prefix="network-", dir="/dev/shm"))
    try:
        with Network() as network, ExitStack() as stack:
            bj, internet = network.site("bj"), network.site("internet")
            uplink = network.link(bj, internet, _UPLINK)
            registry = stack.enter_context(deployment.registry(internet.node("registry"), directory / "upstream"))
            image = build(directory / "image", name="team/app:1", size_bytes=_IMAGE_BYTES)
            reference = registry.add(image, "team/app:1")
            host = bj.node("site", _SITE_LINK)
            site = stack.enter_context(deployment.site(host, directory / "site", registry))
            nodes = [bj.node(f"n{number}", _NODE_LINK) for number in range(_NODES)]
            agents = [stack.enter_context(deployment.agent(node, directory / node.name, site)) for node in nodes]
            yield Running(uplink, registry, agents, image, reference)
    finally:
        shutil.rmtree(directory)


def test_four_nodes_pull_at_once_and_the_image_crosses_the_uplink_once(running: Running) -> None:
    size_bytes = sum(layer.descriptor.size_bytes for layer in running.image.image.layers)
    before = running.uplink.back.bytes

    with ThreadPoolExecutor(_NODES) as threads:
        list(threads.map(lambda agent: agent.imagedist("pull", running.reference), running.agents))

    crossed = running.uplink.back.bytes - before
    assert size_bytes < crossed < 1.05 * size_bytes, "the uplink carried the image more than once"
    reference = Reference.parse(running.reference)
    expected = expected_tree(running.image)
    for agent in running.agents:
        assert node_tree(agent.storage, reference) == expected
        assert agent.node.down.bytes >= size_bytes, "its bytes came around its link"
        assert sum(_received(agent).values()) >= size_bytes
    said = running.agents[0].imagedist("doctor", "--config", str(running.agents[0].directory / "agent.toml"))
    assert f"{_NODES - 1} of {_NODES - 1} neighbours let this node in" in said
    assert "knows that this node lives" in said
    # The registry gone, a node that lost everything still gets it from inside the site.
    running.uplink.cut()
    again = running.agents[0]
    again.imagedist("rm", running.reference)
    again.imagedist("pull", running.reference)
    assert node_tree(again.storage, reference) == expected


def _received(agent: Agent) -> dict[str, float]:
    return {
        sample.labels["source"]: sample.value
        for family in text_string_to_metric_families(agent.metrics())
        for sample in family.samples
        if sample.name == "imagedist_received_bytes_total"
    }
