from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from imagedist.errors import InputError, SourceError
from imagedist.oci.auth import Credentials
from imagedist.oci.credential_helper import ask_helper
from imagedist.oci.credentials import LookedUp, read_login


class Helpers:
    """Credential helpers as shell scripts in a PATH of their own; each notes what it was asked."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.environment = {"PATH": f"{directory}:{os.environ['PATH']}", "WHERE": str(directory)}

    def add(self, name: str, script: str) -> None:
        path = self._directory / f"docker-credential-{name}"
        path.write_text(f'#!/bin/sh\nread -r server\necho "$1 $server" >>"$WHERE/asked"\n{script}\n')
        path.chmod(0o755)

    def asked(self) -> list[str]:
        try:
            return (self._directory / "asked").read_text().splitlines()
        except FileNotFoundError:
            return []


@pytest.fixture
def helpers(tmp_path: Path) -> Helpers:
    return Helpers(tmp_path)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def answer(username: str, secret: str) -> str:
    return f"echo '{json.dumps({'ServerURL': 'x', 'Username': username, 'Secret': secret})}'"


def test_helper_is_asked_by_standard_input(helpers: Helpers) -> None:
    helpers.add("ok", answer("me", "p w'd".replace("'", "")))
    assert ask_helper("ok", "r.example:5000", helpers.environment) == Credentials("me", "p wd")
    assert helpers.asked() == ["get r.example:5000"]


def test_token_of_a_helper_is_an_identity_token(helpers: Helpers) -> None:
    helpers.add("ok", answer("<token>", "kept"))
    assert ask_helper("ok", "r.example", helpers.environment) == Credentials("", "", identity_token="kept")


def test_helper_that_has_no_credentials_is_no_failure(helpers: Helpers) -> None:
    helpers.add("none", "echo 'credentials not found in native keychain'; exit 1")
    assert ask_helper("none", "r.example", helpers.environment) is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'no such region'; exit 1", "docker-credential-bad failed for r.example: no such region"),
        ("exit 3", "failed for r.example: status 3"),
        ("echo nonsense", "sent nonsense"),
        ("echo '{\"Username\": 1}'", "sent nonsense"),
    ],
)
def test_failing_helper_says_why(helpers: Helpers, script: str, message: str) -> None:
    helpers.add("bad", script)
    with pytest.raises(SourceError, match=message):
        ask_helper("bad", "r.example", helpers.environment)


def test_hanging_helper_ends_with_whatever_it_has_started(helpers: Helpers) -> None:
    helpers.add("slow", "sleep 300 & echo $! >$WHERE/child; wait")
    with pytest.raises(SourceError, match=r"docker-credential-slow has not answered for r\.example in 0\.3 s"):
        ask_helper("slow", "r.example", helpers.environment, timeout_seconds=0.3)
    child = int((Path(helpers.environment["WHERE"]) / "child").read_text())
    while is_alive(child):
        time.sleep(0.01)  # it was sent SIGKILL, and dies when it is next scheduled


@pytest.mark.parametrize("name", ["missing", "../sh", "a b", "", "-x"])
def test_helper_is_only_a_program_of_the_path(helpers: Helpers, name: str) -> None:
    with pytest.raises(InputError, match="is not in PATH"):
        ask_helper(name, "r.example", helpers.environment)


def config(directory: Path, **content: object) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(content))
    return path


def test_own_helper_comes_before_the_file_and_the_general_store_last(helpers: Helpers, tmp_path: Path) -> None:
    helpers.add("own", answer("own", "1"))
    helpers.add("store", answer("store", "3"))
    path = config(
        tmp_path,
        credHelpers={"a.example": "own"},
        auths={"a.example": {"username": "file", "password": "2"}, "b.example": {"username": "file", "password": "2"}},
        credsStore="store",
    )
    found = {name: read_login(path, f"{name}.example", helpers.environment) for name in "abc"}
    assert found == {"a": Credentials("own", "1"), "b": Credentials("file", "2"), "c": Credentials("store", "3")}
    assert helpers.asked() == ["get a.example", "get c.example"]


@pytest.mark.parametrize("section", [{"credHelpers": {"docker.io": "hub"}}, {"credsStore": "hub"}])
def test_helper_is_asked_for_docker_hub_by_its_old_name(
    helpers: Helpers, tmp_path: Path, section: dict[str, object]
) -> None:
    helpers.add("hub", answer("me", "p"))
    path = config(tmp_path, **section)
    assert read_login(path, "docker.io", helpers.environment) == Credentials("me", "p")
    assert helpers.asked() == ["get https://index.docker.io/v1/"]


def test_missing_general_store_leaves_a_pull_anonymous_but_a_registrys_own_helper_is_needed(
    helpers: Helpers, tmp_path: Path
) -> None:
    assert read_login(config(tmp_path, credsStore="gone"), "r.example", helpers.environment) is None
    with pytest.raises(InputError, match="docker-credential-gone"):
        read_login(config(tmp_path, credHelpers={"r.example": "gone"}), "r.example", helpers.environment)


async def test_what_was_found_is_kept_for_a_minute_and_looked_up_again_once_refused() -> None:
    now, found = 0.0, [Credentials("a", "1"), Credentials("a", "2"), Credentials("a", "3")]
    looked_up = LookedUp(lambda: found.pop(0), clock=lambda: now)
    assert await looked_up(None) == await looked_up(None) == Credentials("a", "1")
    assert await looked_up(Credentials("a", "1")) == Credentials("a", "2")
    assert await looked_up(Credentials("a", "1")) == Credentials("a", "2")  # somebody else was faster
    now = 61.0
    assert await looked_up(None) == Credentials("a", "3")
