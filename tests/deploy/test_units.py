"""The systemd units: systemd accepts them, and they agree with the configuration files shipped beside them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from imagedist.config import parse_size

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(DEPLOY.glob("systemd/*.service"))

_EXECUTABLE = re.compile(r"^(ExecStart=)/usr/bin/\S+", re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_nothing_wrong_with_a_unit(tmp_path: Path, unit: Path) -> None:
    for path in DEPLOY.glob("systemd/*"):
        (tmp_path / path.name).write_text(_EXECUTABLE.sub(r"\1/bin/true", path.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / unit.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_agents_memory_limit_holds_the_ramdisk_budget_and_512_mib() -> None:
    unit = (DEPLOY / "systemd/imagedist-agent.service").read_text()
    limit = re.search(r"^MemoryMax=(\d+)M$", unit, re.MULTILINE)
    assert limit is not None
    config = tomllib.loads((DEPLOY / "etc/agent.toml").read_text())
    assert int(limit[1]) << 20 == parse_size(config["unpack"]["ramdisk_budget"]) + (512 << 20)


def test_every_unit_names_a_shipped_configuration_file() -> None:
    for unit in UNITS:
        named = re.search(r"--config /etc/imagedist/(\S+)", unit.read_text())
        assert named is not None, unit.name
        assert (DEPLOY / "etc" / named[1]).is_file()
