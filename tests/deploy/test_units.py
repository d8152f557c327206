"""The systemd units: systemd accepts them, and they agree with the configuration files shipped beside them."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from imagedist.config import AgentTable, ProxyTable, load, parse_size
from imagedist.preheat.rule import PreheatRule

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICES = sorted(DEPLOY.glob("systemd/*.service"))
UNITS = [*SERVICES, *sorted(DEPLOY.glob("systemd/*.socket")), *sorted(DEPLOY.glob("systemd/*.timer"))]

_EXECUTABLE = re.compile(r"^(ExecStart=)/usr/bin/\S+", re.MULTILINE)


@pytest.mark.package("systemd")
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


def test_the_shipped_preheat_is_a_rule_and_the_nightly_job_names_it() -> None:
    rule = load(DEPLOY / "etc/preheat.d/base.toml", PreheatRule)
    assert rule.name == "base"
    assert "preheat run /etc/imagedist/preheat.d/base.toml --wait" in (DEPLOY / "cron.d/imagedist-preheat").read_text()


def test_the_agents_memory_limit_holds_the_ramdisk_budget_and_512_mib() -> None:
    unit = (DEPLOY / "systemd/imagedist-agent.service").read_text()
    limit = re.search(r"^MemoryMax=(\d+)M$", unit, re.MULTILINE)
    assert limit is not None
    config = tomllib.loads((DEPLOY / "etc/agent.toml").read_text())
    assert int(limit[1]) << 20 == parse_size(config["unpack"]["ramdisk_budget"]) + (512 << 20)


def test_every_unit_names_a_shipped_configuration_file() -> None:
    for unit in SERVICES:
        named = re.search(r"/etc/imagedist/(\S+\.toml)(?: |$)", unit.read_text(), re.MULTILINE)
        assert named is not None, unit.name
        assert (DEPLOY / "etc" / named[1].replace("%i", "base")).is_file()


def _units(kind: str) -> dict[str, str]:
    return {path.stem.removeprefix("imagedist-"): path.read_text() for path in DEPLOY.glob(f"systemd/*.{kind}")}


def test_every_service_says_when_it_is_ready_and_is_watched_if_it_has_an_event_loop() -> None:
    for name, unit in _units("service").items():
        if "\nType=oneshot\n" in unit:  # ready when it is done
            continue
        assert "\nType=notify\n" in unit, name
        assert ("\nWatchdogSec=" in unit) == (name != "snapshotter"), name


def test_a_service_has_time_to_drain_before_systemd_kills_it() -> None:
    drains = {
        "proxy": ProxyTable.model_fields["drain"].get_default(),
        "agent": AgentTable.model_fields["drain"].get_default(),
    }
    for name, drain in drains.items():
        limit = re.search(r"^TimeoutStopSec=(\d+)s$", _units("service")[name], re.MULTILINE)
        assert limit is not None
        assert int(limit[1]) >= drain.total_seconds() + 10
        assert "\nKillMode=mixed\n" in _units("service")[name]  # workers hear of it from their parent


def test_every_socket_is_where_the_shipped_configuration_listens() -> None:
    sockets = _units("socket")
    proxy = tomllib.loads((DEPLOY / "etc/proxy.toml").read_text())
    agent = tomllib.loads((DEPLOY / "etc/agent.toml").read_text())
    for name, expected in {
        "proxy": [proxy["proxy"]["listen"]],
        "agent": [agent["agent"]["listen"], agent["agent"]["socket"]],
        "snapshotter": [agent["snapshotter"]["socket"]],
    }.items():
        assert re.findall(r"^ListenStream=(.*)$", sockets[name], re.MULTILINE) == expected
