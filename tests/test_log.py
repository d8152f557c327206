"""What the long-running processes write to standard error."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imagedist.log import ForJournal, ForPeople
from imagedist.systemd import is_journal
from tests.service.programs import running

_LINE = re.compile(r"(\S+Z) INFO [a-z_.]+: \S")


def record(level: int, text: str) -> logging.LogRecord:
    made = logging.LogRecord("imagedist.fetch.node", level, "", 0, text, None, None)
    made.created, made.msecs = 1_795_817_256.0421, 42.1
    return made


def test_a_line_for_people_begins_with_the_utc_time_in_milliseconds() -> None:
    line = ForPeople().format(record(logging.WARNING, "no proxy answers"))
    assert line == "2026-11-27T22:07:36.042Z WARNING imagedist.fetch.node: no proxy answers"


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2), (25, 6)],
)
def test_every_line_for_the_journal_has_its_messages_priority_and_no_time(level: int, priority: int) -> None:
    name = logging.getLevelName(level)
    lines = ForJournal().format(record(level, "one\ntwo"))
    assert lines == f"<{priority}>{name} imagedist.fetch.node: one\n<{priority}>two"


def test_only_the_descriptor_that_the_journal_reads_is_the_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w") as journal, (tmp_path / "other").open("w") as other:
        assert not is_journal(journal.fileno())
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert is_journal(journal.fileno())
        assert not is_journal(other.fileno())


async def test_proxy_seeder_and_agent_write_the_same_form(tmp_path: Path) -> None:
    (tmp_path / "proxy.toml").write_text(
        f'[proxy]\nlisten = "127.0.0.1:0"\nsite_blobs = "{tmp_path}/site"\naccess_log = "off"\n'
        '[upstreams.local]\nurl = "http://127.0.0.1:1"\n'
    )
    (tmp_path / "seeder.toml").write_text(
        f'[seeder]\nsite = "bj"\nlisten = "127.0.0.1:0"\nbittorrent = "127.0.0.1:0"\nsite_blobs = "{tmp_path}/site"\n'
        f'site_proxies = ["http://127.0.0.1:1"]\ndatabase = "sqlite:///{tmp_path}/seeder.db"\n'
    )
    (tmp_path / "agent.toml").write_text(
        f'[agent]\nlisten = "127.0.0.1:0"\nbittorrent = "127.0.0.1:0"\nsocket = "{tmp_path}/agent.sock"\n'
        f'site_proxies = ["http://127.0.0.1:1"]\nnode_blobs = "{tmp_path}/blobs"\n'
        f'[storage]\nroot = "{tmp_path}/storage"\ndurability = "none"\nused_by = []\n'
        f'[unpack]\nramdisk = "{tmp_path}/ramdisk"\nramdisk_budget = 0\nworkers = 1\n'
    )

    async def first_line(argv: Sequence[str]) -> str:
        async with running(argv) as program:
            return (await program.hear("INFO")).splitlines()[-1]

    programs = (
        ("-m", "registry_proxy", "--config", str(tmp_path / "proxy.toml")),
        ("-m", "seeder", "--config", str(tmp_path / "seeder.toml")),
        ("-m", "imagedist", "agent", "--config", str(tmp_path / "agent.toml")),
    )
    began = datetime.now(UTC).replace(microsecond=0)
    for line in await asyncio.gather(*map(first_line, programs)):
        matched = _LINE.match(line)
        assert matched, line
        assert datetime.fromisoformat(matched[1]) >= began
