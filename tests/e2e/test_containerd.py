"""containerd's own client with the shipped hosts.toml."""

from __future__ import annotations

import pytest

from imagedist.demo.layout import BuiltImage
from tests.e2e.runtimes import Containerd
from tests.e2e.site import Agent
from tests.e2e.upstream import NAME, Upstream

pytestmark = pytest.mark.e2e("docker-registry", "skopeo", "containerd")


def test_ctr_pulls_from_a_private_registry_through_the_mirror(
    containerd: Containerd, first: Agent, registry: Upstream, images: dict[str, BuiltImage]
) -> None:
    built = images["team/tool:1"]
    before = first.received_bytes()

    # Without --plain-http ctr cannot talk to the registry itself, so an answer can only be the mirror's.
    done = containerd.pull(f"{NAME}/team/tool:1")

    assert done.returncode == 0, done.stderr
    assert containerd.digest(f"{NAME}/team/tool:1") == str(built.image.manifest_digest)
    assert sum(first.received_bytes().values()) > sum(before.values())
    own = built.image.layers[1].descriptor.digest
    assert registry.blobs_sent()[str(own)] == 1
