"""Restarting: what was written for, once each and in order; a failure says what the program said."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagedist.errors import InputError, SourceError
from imagedist.runtimes.report import Found
from imagedist.runtimes.restarting import commands, run

CONTAINERD = ("systemctl", "restart", "containerd")
DOCKER = ("systemctl", "restart", "docker")


def found(key: str, restart: tuple[str, ...]) -> Found:
    return Found(key, key, "1", "yes", "yes", "how", restart=restart)


def systemctl(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = directory / "systemctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))


def test_each_unit_is_restarted_once_in_order_and_only_if_something_was_written_for_it() -> None:
    here = [found("containerd", CONTAINERD), found("other", CONTAINERD), found("docker", DOCKER), found("podman", ())]
    assert commands(here, {"containerd", "other", "docker", "podman"}) == [CONTAINERD, DOCKER]
    assert commands(here, {"docker"}) == [DOCKER]


def test_a_restart_runs_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/asked')
    run(CONTAINERD)
    assert (tmp_path / "asked").read_text() == "restart containerd\n"


def test_a_failed_restart_says_what_the_program_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl(tmp_path, monkeypatch, 'echo "Job failed." >&2; exit 1')
    with pytest.raises(SourceError, match=r"`systemctl restart containerd` failed: Job failed\.; .*--undo"):
        run(CONTAINERD)


def test_a_machine_without_systemd_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="restart it by your own means"):
        run(CONTAINERD)
