"""CRI-O, the real one: pulls by the mirror, pods of images that `imagedist pull` unpacked, and its store's check."""

from __future__ import annotations

import re
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.demo.image import GREETING
from imagedist.demo.layout import BuiltImage
from imagedist.errors import SourceError
from tests.e2e.crio import Crio
from tests.e2e.site import Agent
from tests.e2e.upstream import NAME
from tests.runtimes.trees import snapshot

pytestmark = [
    pytest.mark.prove,
    pytest.mark.peer("crio"),
    pytest.mark.e2e("docker-registry", "skopeo", "containerd", "podman"),
]

TOOL = f"{NAME}/team/tool:1"
APP = f"{NAME}/team/app:1"
SHARED = f"{NAME}/team/shared:1"
LATER = f"{NAME}/team/later:1"
GREETS = ("/bin/sh", "-c", "cat /etc/imagedist-demo")
WAITS = ("/bin/sh", "-c", "trap exit TERM; cat /dev/ptmx & wait")
"""Until it is told to end."""

_GIVEN = re.compile(r'^imagedist_requests_total\{client="cri-o",route="(\w+)",status="20[06]"\} (\S+)$', re.MULTILINE)
_READ_ONLY_ERRORS = re.compile(r"(\d+) read-only (?:layer|image) errors")


def given(agent: Agent) -> Counter[str]:
    """What the mirror gave to CRI-O since the agent started, by route."""
    with urllib.request.urlopen(f"{agent.url}/metrics", timeout=60) as answer:
        return Counter({route: int(float(number)) for route, number in _GIVEN.findall(answer.read().decode())})


@pytest.fixture(scope="module")
def _crio(base: Path, _agents: tuple[Agent, Agent]) -> Iterator[Crio]:
    daemon = Crio(base / "o", _agents[1])
    yield daemon
    daemon.close()


@pytest.fixture
def crio(_crio: Crio, second: Agent) -> Crio:
    _crio.start()
    return _crio


def test_it_pulls_by_the_mirror_and_runs_a_pod(crio: Crio, second: Agent, images: dict[str, BuiltImage]) -> None:
    built = images["team/tool:1"].image
    before = given(second)

    with crio.images() as service, crio.pods().pod("pulled") as pod:
        service.pull(TOOL)
        assert built.id.hex in service.ids()
        done = pod.run("pulled", TOOL, *GREETS)

    assert (done.exit_code, done.printed) == (0, GREETING)
    now = given(second) - before
    assert now["manifest"]
    assert now["blob"] > len(built.layers)  # these, the config, and those of the pod's own image


def test_an_image_of_imagedist_pull_is_there_at_once_and_runs_in_place_without_an_agent(
    crio: Crio, second: Agent, images: dict[str, BuiltImage]
) -> None:
    app = images["team/app:1"].image
    with crio.images() as service, crio.pods().pod("placed") as pod:
        assert app.id.hex not in service.ids()
        second.imagedist("pull", APP)
        assert app.id.hex in service.ids()
        before = crio.own_layers()
        second.stop()
        done = pod.run("placed", APP, *GREETS)
        own = crio.own_layers() - before

    assert (done.exit_code, done.printed) == (0, GREETING)
    assert len(own) == 1, "more than the container's own layer"


def test_a_pull_of_an_image_that_we_unpacked_fetches_and_unpacks_no_layer(crio: Crio, second: Agent) -> None:
    """As with ``imagePullPolicy: Always``."""
    second.imagedist("pull", SHARED)
    before, layers = given(second), crio.own_layers()

    with crio.images() as service:
        service.pull(SHARED)

    assert (given(second) - before)["blob"] <= 1  # the config
    assert crio.own_layers() == layers


def test_what_a_container_uses_stays_until_it_is_gone(crio: Crio, second: Agent) -> None:
    second.imagedist("pull", APP)
    remove = ["rm", APP, "--root", str(second.storage), "--used-by", str(crio.store)]
    with crio.pods().pod("using") as pod:
        container = pod.begin("using", APP, *WAITS)
        refused = second.try_imagedist(*remove)
        assert pod.is_running(container)
    assert refused.returncode == 2
    assert "it is in use" in refused.stderr
    second.imagedist(*remove)
    assert APP not in second.image_names()


def test_kubelet_cannot_remove_an_image_of_our_store(crio: Crio, second: Agent) -> None:
    second.imagedist("pull", APP)
    with crio.images() as service, pytest.raises(SourceError, match="RemoveImage"):
        service.remove(APP)
    assert APP in second.image_names()


def test_its_check_finds_our_store_to_the_byte_as_it_should_be(crio: Crio, second: Agent) -> None:
    """It may say what it likes of its own store."""
    second.imagedist("pull", APP)
    done = crio.check()
    assert "checking read-only layer" in done.stderr
    assert {int(number) for number in _READ_ONLY_ERRORS.findall(done.stderr)} <= {0}, done.stderr[-6000:]


def test_containers_of_our_layers_and_all_images_outlive_a_killed_crio(crio: Crio, second: Agent) -> None:
    second.imagedist("pull", APP)
    with crio.images() as service, crio.pods().pod("lasting") as pod:
        service.pull(LATER)  # its base is one of our store's
        before = service.ids()
        container = pod.begin("lasting", APP, *WAITS)
        crio.kill()
        crio.start()
        assert pod.is_running(container)
        assert service.ids() == before


def test_without_an_agent_it_goes_to_the_registry_itself(
    crio: Crio, second: Agent, images: dict[str, BuiltImage]
) -> None:
    late = f"{NAME}/library/late:1"
    second.stop()
    with crio.images() as service:
        service.pull(late)
        assert images["library/late:1"].image.id.hex in service.ids()


def test_the_proof_tries_podman_and_crio_one_after_the_other(crio: Crio, second: Agent) -> None:
    """What podman's trial leaves in our store is no image that CRI-O had before."""
    podmans, crios = crio.configured.told("podman", "crio", "--prove")

    assert podmans | {"mirror": "yes", "unpacked": "yes", "ran": "yes"} == podmans
    assert crios | {"mirror": "yes", "unpacked": "yes", "ran": "-"} == crios
    assert not [name for name in second.image_names() if "canary" in name], "the canary was left behind"


def test_undo_gives_back_what_was_there(crio: Crio) -> None:
    crio.configured.told("--undo")
    assert snapshot(crio.configured.etc / "containers") == crio.before
    assert not (crio.configured.etc / "crio/crio.conf.d").exists()
