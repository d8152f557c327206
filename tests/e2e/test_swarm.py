"""Two agents of a site: what crosses into the site, and what goes between its nodes."""

from __future__ import annotations

import pytest

from imagedist.demo.layout import BuiltImage
from tests.e2e.site import Agent, Site, swarm_bytes
from tests.e2e.upstream import NAME, Upstream

pytestmark = pytest.mark.e2e("docker-registry", "skopeo")


def test_a_second_node_gets_its_bytes_over_the_swarm_and_upstream_sends_each_blob_once(
    site: Site, first: Agent, second: Agent, registry: Upstream, images: dict[str, BuiltImage]
) -> None:
    image = images["team/shared:1"].image
    first.imagedist("pull", f"{NAME}/team/shared:1")
    large = [layer.descriptor.digest for layer in image.layers if layer.descriptor.size_bytes > 1 << 20]
    first.wait_seeding(large)
    site.others_want("team/shared", large)  # else the second is one of the first few that want it, and streams it
    before = second.received_bytes()

    second.imagedist("pull", f"{NAME}/team/shared:1")

    large_bytes = sum(layer.descriptor.size_bytes for layer in image.layers if layer.descriptor.size_bytes > 1 << 20)
    assert swarm_bytes(second.received_bytes(), before) > large_bytes / 2, second.received_bytes()
    sent = registry.blobs_sent()
    # All but the base layer, which other tests' images share.
    wanted = [image.id, *(layer.descriptor.digest for layer in image.layers[1:])]
    assert {str(digest): sent[str(digest)] for digest in wanted} == {str(digest): 1 for digest in wanted}


def test_both_nodes_list_the_image_they_pulled(first: Agent, second: Agent) -> None:
    for agent in (first, second):
        agent.imagedist("pull", f"{NAME}/team/shared:1")
        assert f"{NAME}/team/shared:1" in agent.image_names()
