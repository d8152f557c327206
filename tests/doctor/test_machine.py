"""The machine itself."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest

from imagedist.doctor import machine
from imagedist.unpack import extension


@pytest.mark.parametrize(("compiled", "severity"), [(None, "warn"), (ModuleType("_ordinary"), "ok")])
def test_it_says_whether_unpacking_is_compiled(
    compiled: ModuleType | None, severity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extension, "compiled", compiled)
    assert machine.compiled().severity == severity


@pytest.mark.parametrize(("known", "severity"), [("nodev\tproc\nnodev\toverlay\n", "ok"), ("\text4\n", "warn")])
def test_it_says_whether_the_kernel_has_overlayfs(tmp_path: Path, known: str, severity: str) -> None:
    (tmp_path / "filesystems").write_text(known)
    assert machine.overlay(tmp_path / "filesystems").severity == severity


@pytest.mark.parametrize(("limit", "severity"), [("1024", "warn"), ("65536", "ok"), ("unlimited", "ok")])
def test_the_open_files_of_the_agent_count_not_those_of_who_asks(tmp_path: Path, limit: str, severity: str) -> None:
    (tmp_path / "42").mkdir()
    line = f"Max open files            1024                 {limit:<20} files     \n"
    (tmp_path / "42/limits").write_text(
        f"Limit                     Soft Limit           Hard Limit           Units\n{line}"
    )
    found = machine.open_files(42, tmp_path)
    assert (found.severity, found.code) == (severity, "open-files")
    assert "the agent" in found.what


def test_without_an_agent_it_is_the_limit_of_this_shell() -> None:
    assert "this shell" in machine.open_files(None).what
    assert "this shell" in machine.open_files(0, Path("/nowhere")).what


def test_the_real_limits_of_a_process_are_understood() -> None:
    assert "the agent" in machine.open_files(os.getpid()).what
