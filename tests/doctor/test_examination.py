"""The whole: bounded in time, no check hides another, everything is explained."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imagedist.cli.command import app
from imagedist.doctor import examination, examine
from imagedist.doctor.asking import in_thread
from imagedist.doctor.finding import Finding
from imagedist.doctor.subject import Subject
from imagedist.doctor.text import text
from imagedist.errors import ConfigError

_PROJECT = Path(__file__).parents[2]
_CODE = re.compile(r'Finding\(\s*(?:"(?:ok|warn|bad|unknown)"|[^,()]*(?:\([^()]*\))?[^,()]*),\s*f?"([^"]+)"')


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No agent and no configuration of this machine's own."""
    monkeypatch.setattr(examination, "USUAL_CONFIG", tmp_path / "none.toml")
    monkeypatch.delenv("IMAGEDIST_SOCKET", raising=False)


def agent_toml(directory: Path) -> Path:
    path = directory / "agent.toml"
    path.write_text(
        f"""
        [agent]
        site_proxies = ["http://127.0.0.1:9"]
        site_seeders = ["http://127.0.0.1:9"]
        listen = "127.0.0.1:9"
        bittorrent = "127.0.0.1:9"
        socket = "{directory}/agent.sock"
        node_blobs = "{directory}/blobs"
        [storage]
        root = "{directory}/storage"
        """
    )
    return path


async def test_a_node_without_configuration_and_agent_is_examined_all_the_same() -> None:
    found = await examine(None, None)
    codes = {finding.code for finding in found}
    assert {"agent-none", "privileges", "disk-space", "site-unnamed"} <= codes
    assert "check-failed" not in codes


async def test_a_node_whose_everything_is_down_is_told_so_part_by_part(tmp_path: Path) -> None:
    found = await examine(agent_toml(tmp_path), None)
    bad = {finding.code for finding in found if finding.severity == "bad"}
    assert {"agent-silent", "mirror-unanswered", "proxy-unreachable", "seeder-unreachable"} <= bad
    assert all(finding.why and finding.fix for finding in found if finding.severity == "bad")


async def test_a_wrong_configuration_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("[agent]\nsite_proxies = ['http://a:1']\nsite_proxy = []\n")
    with pytest.raises(ConfigError, match="site_proxy"):
        await examine(path, None)


async def test_a_check_that_hangs_or_fails_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = threading.Event()

    async def hangs(subject: Subject) -> list[Finding]:
        await in_thread(hanging.wait)
        return []

    async def fails(subject: Subject) -> list[Finding]:
        raise RuntimeError("oh no")

    async def works(subject: Subject) -> list[Finding]:
        return [Finding("ok", "works", "it works")]

    monkeypatch.setattr(examination, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(examination, "CHECKS", {"one": hangs, "two": fails, "three": works})
    try:
        found = await examine(None, None)
    finally:
        hanging.set()
    assert [(finding.severity, finding.code) for finding in found[1:]] == [
        ("unknown", "check-timeout"),
        ("unknown", "check-failed"),
        ("ok", "works"),
    ]
    assert "oh no" in found[2].what


async def test_what_a_thread_raises_arrives() -> None:
    def fail() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await in_thread(fail)
    assert await asyncio.wait_for(in_thread(lambda: 1), 10) == 1


def test_the_command_ends_with_1_if_there_is_a_problem_and_says_so_in_json(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--config", str(agent_toml(tmp_path)), "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["problems"] == sum(finding["severity"] == "bad" for finding in told["findings"]) > 0
    assert set(told["findings"][0]) == {"severity", "code", "what", "why", "fix"}


def test_people_read_what_why_and_fix() -> None:
    lines = text(
        [
            Finding("ok", "a", "fine"),
            Finding("bad", "b", "broken", "it matters", "mend it"),
            Finding("warn", "c", "so so"),
        ]
    ).splitlines()
    assert lines[0].split() == ["ok", "fine"]
    assert lines[1:4] == ["bad     broken", "          why: it matters", "          fix: mend it"]
    assert lines[-1].startswith("1 problem, 1 warning, 1 fine")


def test_every_finding_that_is_not_fine_has_a_reason_and_a_remedy() -> None:
    for path in (_PROJECT / "imagedist/doctor").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Finding":
                severity = call.args[0].value if isinstance(call.args[0], ast.Constant) else "of two kinds"
                assert severity == "ok" or len(call.args) == 5, f"{path.name}:{call.lineno}"


def test_every_finding_is_explained_in_the_docs() -> None:
    documented = set(re.findall(r"`([a-z-]+)`", (_PROJECT / "docs/doctor.md").read_text()))
    sources = "\n".join(path.read_text() for path in (_PROJECT / "imagedist/doctor").glob("*.py"))
    codes = {code for code in _CODE.findall(sources) if "{" not in code}
    codes |= {f"{kind}{end}" for kind in ("proxy", "seeder") for end in re.findall(r'f"\{kind\}(-[a-z]+)"', sources)}
    assert len(codes) > 30, "the sources are read wrongly"
    assert codes <= documented
