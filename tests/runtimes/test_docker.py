"""daemon.json: our mirror first, everything else as it was; the storage driver only when Docker itself is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagedist.errors import ConfigError
from imagedist.runtimes.docker import find, with_mirror, with_storage_driver
from imagedist.runtimes.plan import plan
from imagedist.runtimes.settings import Settings
from tests.runtimes.trees import program

MIRROR = "127.0.0.1:5050"
URL = "http://127.0.0.1:5050"


def test_the_mirror_comes_first_and_order_and_indentation_stay() -> None:
    text = '{\n\t"log-level": "warn",\n\t"registry-mirrors": ["https://mirror.example"],\n\t"data-root": "/srv"\n}\n'
    after = with_mirror(text, MIRROR)
    assert list(json.loads(after)) == ["log-level", "registry-mirrors", "data-root"]
    assert json.loads(after)["registry-mirrors"] == [URL, "https://mirror.example"]
    assert '\n\t"log-level": "warn",\n' in after


@pytest.mark.parametrize("text", ["", "{}", f'{{"registry-mirrors":["{URL}/"]}}'])
def test_it_is_written_once(text: str) -> None:
    after = with_mirror(text, MIRROR)
    assert with_mirror(after, MIRROR) == after
    assert len(json.loads(after)["registry-mirrors"]) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is not JSON"), ("[]", "no.* JSON object"), ('{"registry-mirrors": "one"}', "no list")],
)
def test_a_malformed_daemon_json_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        with_mirror(text, MIRROR)


def test_features_that_are_no_object_are_refused() -> None:
    with pytest.raises(ConfigError, match="features"):
        with_storage_driver('{"features": 1}')


@pytest.fixture
def image_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    facts = {
        "ServerVersion": getattr(request, "param", "28.5.2"),
        "Driver": "overlayfs",
        "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
    }
    program(tmp_path, "docker", json.dumps(facts))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


@pytest.mark.usefixtures("image_store")
def test_the_image_store_gets_hosts_at_once_and_its_driver_only_by_name(tmp_path: Path) -> None:
    found = find(Settings(root=tmp_path / "root"))
    assert found is not None
    assert "containerd image store" in found.name

    unnamed = [change.path.name for change in plan([found], ()).files]
    named = {change.path.name: change.after.decode() for change in plan([found], ["docker"]).files}

    assert unnamed == ["hosts.toml"]
    assert set(named) == {"hosts.toml", "config.toml", "daemon.json"}
    assert json.loads(named["daemon.json"]) == {
        "features": {"containerd-snapshotter": True},
        "storage-driver": "imagedist",
    }


@pytest.mark.usefixtures("image_store")
@pytest.mark.parametrize("image_store", ["26.1.5+dfsg1"], indirect=True)
def test_an_image_store_that_reads_no_hosts_gets_the_mirror_of_docker_io(tmp_path: Path) -> None:
    found = find(Settings(root=tmp_path / "root"))
    assert found is not None

    (file,) = plan([found], ()).files
    assert json.loads(file.after) == {"registry-mirrors": [URL]}
    named = {change.path.name: change.after for change in plan([found], ["docker"]).files}
    assert set(named) == {"config.toml", "daemon.json"}
    assert json.loads(named["daemon.json"])["storage-driver"] == "imagedist"
