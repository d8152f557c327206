"""docs/ports.md: its ports are those of the shipped configuration files, and every listening key is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from imagedist.config import AgentConfig, AgentTable, ProxyConfig, SeederConfig, load

ROOT = Path(__file__).parents[2]
ROWS = [
    tuple(cell.strip(" `") for cell in line.strip("|\n").split("|"))
    for line in (ROOT / "docs" / "ports.md").read_text().splitlines()
    if re.match(r"\| [0-9`]", line)
]


def ports_of(key: str) -> set[str]:
    return {row[0] for row in ROWS if row[1] == key}


def test_every_row_says_who_listens_who_connects_what_for_and_what_happens_when_it_is_closed() -> None:
    assert len(ROWS) > 10
    assert all(len(row) == 6 and all(row) for row in ROWS)


@pytest.mark.parametrize(
    "key", ["proxy.listen", "seeder.listen", "seeder.bittorrent", "agent.listen", "agent.bittorrent"]
)
def test_ports_are_those_of_the_shipped_files(key: str) -> None:
    table, name = key.split(".")
    models = {"proxy": ProxyConfig, "seeder": SeederConfig, "agent": AgentConfig}
    config = load(ROOT / "deploy" / "etc" / f"{table}.toml", models[table])
    assert ports_of(key) == {str(getattr(getattr(config, table), name).port)}


@pytest.mark.parametrize("name", ["listen", "bittorrent"])
def test_an_agents_ports_are_its_defaults(name: str) -> None:
    assert ports_of(f"agent.{name}") == {str(AgentTable.model_fields[name].default.port)}


def test_sockets_are_named_as_they_are_shipped() -> None:
    config = load(ROOT / "deploy" / "etc" / "agent.toml", AgentConfig)
    assert config.snapshotter is not None
    assert ports_of("agent.socket") == {config.agent.socket.name}
    assert ports_of("snapshotter.socket") == {config.snapshotter.socket.name}
