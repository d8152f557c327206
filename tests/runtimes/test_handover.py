"""Handing an image over to a runtime: the real name appears, ours goes, and no program is left running."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from imagedist.errors import InputError, SourceError
from imagedist.oci.reference import Reference
from imagedist.runtimes import hand_over

REFERENCE = Reference.parse("registry.example/team/app:1")
OURS = "127.0.0.1:5050/registry.example/team/app:1"

_DOCKER = """#!/bin/sh
echo "$@" >> "{log}"
[ "$1" = "{fails}" ] && {{ echo "daemon says no" >&2; exit 1; }}
[ "$1" = "{hangs}" ] && {{ echo $$ > "{pid}"; exec sleep 600; }}
exit 0
"""


class Docker:
    """A ``docker`` that notes what it is asked."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, *, fails: str = "", hangs: str = "") -> None:
        self._log = directory / "log"
        self.pid = directory / "pid"
        os.mkfifo(self.pid)
        program = directory / "docker"
        program.write_text(_DOCKER.format(log=self._log, fails=fails, hangs=hangs, pid=self.pid))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(directory), prepend=":")

    @property
    def asked(self) -> list[str]:
        return self._log.read_text().splitlines()


async def hand() -> None:
    await hand_over("docker", REFERENCE, "127.0.0.1:5050", "registry.example")


async def test_an_image_pulled_under_our_address_gets_its_real_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = Docker(tmp_path, monkeypatch)
    await hand()
    assert docker.asked == [f"pull {OURS}", f"tag {OURS} registry.example/team/app:1", f"rmi {OURS}"]


@pytest.mark.parametrize("step", ["pull", "tag"])
async def test_a_failed_step_is_told_and_our_name_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    docker = Docker(tmp_path, monkeypatch, fails=step)
    with pytest.raises(SourceError, match=f"`docker {step} .*` failed: daemon says no"):
        await hand()
    assert docker.asked[-1] == f"rmi {OURS}"


async def test_an_interrupted_pull_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = Docker(tmp_path, monkeypatch, hangs="pull")
    task = asyncio.create_task(hand())
    pid = (await asyncio.to_thread(docker.pid.read_text)).strip()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not Path(f"/proc/{pid}").exists()
    assert docker.asked == [f"pull {OURS}", f"rmi {OURS}"]


async def test_a_missing_runtime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="docker is not installed"):
        await hand()


async def test_a_reference_without_a_tag_cannot_be_handed_over() -> None:
    by_digest = Reference.parse(f"registry.example/team/app@sha256:{'a' * 64}")
    with pytest.raises(InputError, match="with a tag"):
        await hand_over("docker", by_digest, "127.0.0.1:5050", "registry.example")
