from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from imagedist.errors import InputError
from imagedist.oci.auth import Credentials
from imagedist.oci.credentials import find_credentials


def login(path: Path, auths: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": auths, "credsStore": "none-installed"}))


def auth(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("registry.local:5000", "registry.local:5000"),
        ("https://registry.local", "registry.local"),
        ("https://index.docker.io/v1/", "docker.io"),
    ],
)
def test_login_is_found_however_the_key_is_spelled(tmp_path: Path, key: str, registry: str) -> None:
    login(tmp_path / ".docker" / "config.json", {"other": {}, key: auth("me:a:b")})
    assert find_credentials(registry, {"HOME": str(tmp_path)}) == Credentials("me", "a:b")


def test_first_file_that_has_the_registry_wins(tmp_path: Path) -> None:
    login(tmp_path / "auth.json", {"a": auth("first:1")})
    login(tmp_path / "docker" / "config.json", {"a": auth("second:2"), "b": auth("third:3")})
    environment = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json"), "DOCKER_CONFIG": str(tmp_path / "docker")}
    assert find_credentials("a", environment) == Credentials("first", "1")
    assert find_credentials("b", environment) == Credentials("third", "3")
    assert find_credentials("c", environment) is None


@pytest.mark.parametrize("content", ["not json", '{"auths": {"a": {"auth": "%%"}}}'])
def test_malformed_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(InputError, match=str(path)):
        find_credentials("a", {"REGISTRY_AUTH_FILE": str(path)})


def test_identity_token_of_a_login_is_found(tmp_path: Path) -> None:
    entry = auth("00000000-0000-0000-0000-000000000000:") | {"identitytoken": "kept"}
    login(tmp_path / ".docker" / "config.json", {"a": entry})
    assert find_credentials("a", {"HOME": str(tmp_path)}) == Credentials("", "", identity_token="kept")


def test_login_for_a_part_of_a_registry_is_not_one_for_all_of_it(tmp_path: Path) -> None:
    login(tmp_path / ".docker" / "config.json", {"quay.io/team": auth("team:1"), "quay.io": auth("all:2")})
    assert find_credentials("quay.io", {"HOME": str(tmp_path)}) == Credentials("all", "2")
