"""Runtimes that hang: their programs are killed in time, with what they have started, and the others go on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imagedist.agent.preheat_runtimes import NodeRuntimes
from imagedist.errors import SourceError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import Reference
from imagedist.runtimes.asking import HangError
from tests.support.waiting import until

REFERENCE = Reference.parse("registry.example/team/app:1")
IMAGE = Digest.of(b"image")
PATIENCE_SECONDS = 1.5
"""A shell starts within that, whatever else the machine does."""


class Programs:
    """Of runtimes, as shell scripts that note who runs, and what was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 0.0
        self.runtimes = NodeRuntimes("127.0.0.1:5050", PATIENCE_SECONDS, 0.05, lambda: self.now)

    def write(self, name: str, *lines: str) -> None:
        path = self.directory / name
        path.write_text("\n".join(["#!/bin/sh", f'echo "$$ $@" >> "{self.directory}/log"', *lines]))
        path.chmod(0o755)

    def hang(self, name: str, when: str = "*") -> None:
        """Never ends where its second word is ``when``, and has started another that holds its output."""
        self.write(
            name,
            f'case "$2" in {when}) sleep 86400 & echo "$! child" >> "{self.directory}/log"; wait;; esac',
            f"echo {IMAGE.hex}",
        )

    def asked(self) -> list[str]:
        return [line.partition(" ")[2] for line in self._lines() if not line.endswith(" child")]

    def alive(self) -> list[int]:
        return [pid for pid in (int(line.split()[0]) for line in self._lines()) if _runs(pid)]

    def _lines(self) -> list[str]:
        return (self.directory / "log").read_text().splitlines()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return Programs(tmp_path)


async def test_a_runtime_that_hangs_is_killed_with_its_children_and_left_alone_while_others_answer(
    programs: Programs,
) -> None:
    programs.hang("docker")
    programs.write("podman", f"echo {IMAGE.hex}")
    with pytest.raises(HangError, match=r"`docker image inspect` did not end within 1\.5 s"):
        await programs.runtimes.listed("docker", REFERENCE)
    await until(lambda: not programs.alive())
    with pytest.raises(SourceError, match="docker is left alone for 3 s"):
        await programs.runtimes.listed("docker", REFERENCE)
    assert len(programs.asked()) == 1, "and not asked again"
    assert await programs.runtimes.listed("podman", REFERENCE) == IMAGE

    programs.write("docker", f"echo {IMAGE}")
    programs.now += 3.1
    assert await programs.runtimes.listed("docker", REFERENCE) == IMAGE


async def test_a_runtime_that_hangs_before_a_pull_is_not_asked_for_one(programs: Programs) -> None:
    programs.hang("docker")
    with pytest.raises(HangError):
        await programs.runtimes.bring("docker", REFERENCE, "local")
    assert not any(line.startswith("pull") for line in programs.asked())


async def test_a_pull_ends_when_its_runtime_does_not_answer_any_more(programs: Programs) -> None:
    programs.write(
        "docker",
        f'if [ "$1" = image ] && [ ! -e {programs.directory}/hung ]; then echo {IMAGE}; exit; fi',
        'if [ "$1" = rmi ]; then exit 1; fi',
        f"touch {programs.directory}/hung",
        "exec sleep 86400",
    )
    with pytest.raises(SourceError, match=r"docker does not answer while it pulls registry\.example/team/app:1"):
        await programs.runtimes.bring("docker", REFERENCE, "local")
    await until(lambda: not programs.alive())


async def test_a_pull_that_takes_long_goes_on_while_its_runtime_answers(programs: Programs) -> None:
    asked = programs.directory / "asked"
    asked.touch()
    programs.write(
        "docker",
        f'case "$1" in image) echo x >> {asked}; echo {IMAGE};;',
        f'pull) until [ "$(wc -l < {asked})" -ge 4 ]; do sleep 0.05; done;; esac',
    )
    await programs.runtimes.bring("docker", REFERENCE, "local")
    steps = [line.split()[0] for line in programs.asked() if not line.startswith("image ")]
    assert steps == ["pull", "tag", "rmi"]
