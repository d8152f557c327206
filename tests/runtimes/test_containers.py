"""podman's and CRI-O's files: our mirror first, our store among theirs, what the user wrote untouched."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from imagedist.errors import ConfigError
from imagedist.runtimes.containers import find_crio, find_podman, with_registry, with_store
from imagedist.runtimes.plan import plan
from imagedist.runtimes.settings import Settings
from tests.runtimes.trees import program, put

MIRROR = "127.0.0.1:5050/docker.io"
OURS = {"location": MIRROR, "insecure": True}
MAIN = "etc/containers/registries.conf"
DROP_IN = "etc/containers/registries.conf.d/50-imagedist.conf"


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "podman", "podman version 4.3.1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def planned(root: Path, settings: Settings | None = None) -> dict[str, dict[str, Any]]:
    """Path below the root → what would be written there."""
    found = find_podman(settings or Settings(root=root))
    assert found is not None
    files = plan([found], ()).files
    return {str(change.path.relative_to(root)): tomllib.loads(change.after.decode()) for change in files}


def test_a_registry_nobody_mentions_gets_a_table_with_the_mirror() -> None:
    assert tomllib.loads(with_registry("", "docker.io", MIRROR)) == {
        "registry": [{"prefix": "docker.io", "location": "docker.io", "mirror": [OURS]}]
    }


def test_the_users_mirrors_come_after_ours_and_nothing_is_lost() -> None:
    text = (
        'unqualified-search-registries = ["docker.io"]\n[[registry]]\nlocation = "docker.io"  # mine\nblocked = false\n'
        '[[registry.mirror]]\nlocation = "mirror.example"\n[[registry]]\nprefix = "quay.io"\nlocation = "quay.io"\n'
    )
    after = with_registry(text, "docker.io", MIRROR)
    assert "# mine" in after
    table, other = tomllib.loads(after)["registry"]
    assert table["mirror"] == [OURS, {"location": "mirror.example"}]
    assert (table["blocked"], other["prefix"]) == (False, "quay.io")
    assert with_registry(after, "docker.io", MIRROR) == after


@pytest.mark.usefixtures("podman")
def test_a_fresh_node_gets_a_drop_in_and_a_storage_conf_with_the_defaults(tmp_path: Path) -> None:
    root = tmp_path / "root"
    settings = Settings(root=root, upstreams={"docker.io": "docker.io", "registry.local:5000": "local"})
    files = planned(root, settings)
    assert set(files) == {DROP_IN, "etc/containers/storage.conf"}
    mirrors = {table["prefix"]: table["mirror"][0]["location"] for table in files[DROP_IN]["registry"]}
    assert mirrors == {"docker.io": MIRROR, "registry.local:5000": "127.0.0.1:5050/local"}
    storage = files["etc/containers/storage.conf"]["storage"]
    assert storage["driver"] == "overlay"
    assert storage["options"] == {"additionalimagestores": ["/var/lib/imagedist/storage"]}


@pytest.mark.usefixtures("podman")
def test_a_table_of_the_users_is_edited_where_it_is_since_a_drop_in_would_replace_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, "/etc/containers/registries.conf.d/10-site.conf", '[[registry]]\nlocation = "docker.io"\n')
    put(root, MAIN, 'unqualified-search-registries = ["docker.io"]\n')
    files = planned(root)
    assert set(files) == {"etc/containers/registries.conf.d/10-site.conf", "etc/containers/storage.conf"}


@pytest.mark.usefixtures("podman")
def test_a_main_file_of_version_1_is_refused_as_no_drop_in_is_read_beside_it(tmp_path: Path) -> None:
    put(tmp_path / "root", MAIN, "[registries.search]\nregistries = ['docker.io']\n")
    with pytest.raises(ConfigError, match=r"registries\.conf is of version 1"):
        planned(tmp_path / "root")


@pytest.mark.usefixtures("podman")
def test_the_vendors_storage_conf_is_the_base_of_a_new_one(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, "/usr/share/containers/storage.conf", '[storage]\ndriver = "btrfs"\n')
    assert planned(root)["etc/containers/storage.conf"]["storage"]["driver"] == "btrfs"


def test_our_store_joins_the_stores_that_are_there() -> None:
    text = '[storage]\ndriver = "overlay"\n[storage.options]\n# read only\nadditionalimagestores = ["/srv/images"]\n'
    after = with_store(text, "/ours")
    assert tomllib.loads(after)["storage"]["options"]["additionalimagestores"] == ["/srv/images", "/ours"]
    assert "# read only" in after
    assert with_store(after, "/ours") == after


@pytest.mark.parametrize("text", ["[storage", '[storage.options]\nadditionalimagestores = "/one"\n'])
def test_a_malformed_storage_conf_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"no list|not TOML"):
        with_store(text, "/ours")


def test_crio_is_kept_from_repairing_what_is_upon_our_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "crio", "crio version 1.34.0\nGitCommit: unknown")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = find_crio(Settings(root=tmp_path / "root"))
    assert found is not None
    assert (found.version, found.restart) == ("1.34.0", ("systemctl", "restart", "crio"))
    (edit,) = [edit for edit in found.edits if edit.path == tmp_path / "root/etc/crio/crio.conf.d/50-imagedist.conf"]
    written = edit.change("")
    assert tomllib.loads(written) == {"crio": {"internal_repair": False}}
    assert edit.change(written) == written
