"""Both charts by one command: part after part, each kept, none missed because another failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import whole
from bench.cli import app
from bench.directories import short_directory
from bench.report import remarks
from bench.result import Keep, Result, load
from bench.session import Settings
from bench.swarm import QUICK
from imagedist.errors import ImagedistError
from tests.bench.test_result import OURS, result
from tests.bench.test_unpack import bench


def plan(tmp_path: Path) -> whole.Plan:
    return whole.Plan(Settings(tmp_path, tmp_path, None, "small", 1, lambda line: None), (1, 2), QUICK, (), {})


def test_a_part_that_fails_is_a_row_with_the_reason_and_keeps_its_rows_and_the_others_go_on(tmp_path: Path) -> None:
    def fails(plan: whole.Plan, done: Sequence[Result], keep: Keep) -> Result:
        keep(result(OURS, benchmark="fails"))
        raise ImagedistError("the registry did not start")

    kept: list[Result] = []
    parts = {"fails": fails, "unpack": lambda plan, done, keep: result(OURS)}
    found = whole.run(plan(tmp_path), parts, kept.append)
    assert [(part.benchmark, part.partial) for part in found.parts] == [("fails", True), ("unpack", False)]
    assert found.parts[0].stopped == "the registry did not start"
    assert [(row.name, row.not_run) for row in found.contestants] == [("fails", "the registry did not start")]
    assert [[part.benchmark for part in one.parts] for one in kept] == [["fails"], ["fails"], ["fails", "unpack"]]
    assert remarks(found) == []


def test_parts_are_as_busy_as_the_machine_was_before_them_all(tmp_path: Path) -> None:
    def part(plan: whole.Plan, done: Sequence[Result], keep: Keep) -> Result:
        return result(OURS, settings={"load_at_start": "9999.00"})

    (found,) = whole.run(plan(tmp_path), {"unpack": part}, lambda known: None).parts
    assert float(found.settings["load_at_start"]) < 9999


@pytest.mark.root
@pytest.mark.e2e("docker-registry", "skopeo")
def test_the_command_writes_a_result_and_a_page(tmp_path: Path) -> None:
    file, page = tmp_path / "result.json", tmp_path / "report.html"
    with short_directory() as directory:
        places = ["--cache", str(directory / "cache"), "--store", str(directory / "stores"), "--ext4", "200MB"]
        files = ["--json", str(file), "--html", str(page), "--charts", str(tmp_path / "charts")]
        done = bench("all", "--parts", "limit", "--image", "random-2MB", "--rounds", "1", *places, *files)
    assert done.returncode == 0, done.stderr
    (part,) = load(file).parts
    assert part.benchmark == "limit"
    assert "Where the time goes" in page.read_text()
    assert {path.name for path in (tmp_path / "charts").iterdir()} == {"stages.png", "stages.svg"}


def test_every_command_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text()
    commands = [
        command.name or str(command.callback and command.callback.__name__) for command in app.registered_commands
    ]
    assert [name for name in commands if f"`{name}`" not in text and f"imagedist-bench {name} " not in text] == []
