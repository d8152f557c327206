"""A node's store as the command line shows it."""

from __future__ import annotations

import sys

import pytest

from imagedist.demo.image import GREETING
from tests.e2e.processes import succeed
from tests.e2e.site import Agent
from tests.e2e.upstream import NAME, Upstream

pytestmark = pytest.mark.e2e("docker-registry", "skopeo")

# In a mount namespace of its own, so that nothing stays mounted when an assertion fails.
_MOUNT = 'shown=$("$@" mount "$REF" --root "$ROOT"); cat "$shown/etc/imagedist-demo"; "$@" umount "$REF" --root "$ROOT"'


def test_a_mounted_image_shows_its_uppermost_layer(first: Agent) -> None:
    reference = f"{NAME}/team/base:1"
    first.imagedist("pull", reference)

    done = succeed(
        ["unshare", "--mount", "sh", "-euc", _MOUNT, "mount", sys.executable, "-m", "imagedist"],
        {"REF": reference, "ROOT": str(first.storage)},
    )

    assert GREETING in done.stdout


def test_an_image_is_pulled_without_any_agent_or_site(first: Agent, registry: Upstream) -> None:
    root, ramdisk = first.storage.with_name("own-storage"), first.storage.with_name("ramdisk")
    reference = f"{registry.url.removeprefix('http://')}/team/base:1"

    first.imagedist("pull", reference, "--plain-http", "--root", str(root), "--ramdisk", str(ramdisk))

    assert (root / "overlay-images/images.json").exists()
