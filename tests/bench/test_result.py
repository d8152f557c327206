"""A result is written, read and compared without losing anything."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench.cli import app
from bench.journal import Journal
from bench.report import show
from bench.result import Contestant, ImageFacts, Machine, Result, Run, Verdict, comparisons, load, save
from imagedist.errors import InputError


def contestant(name: str, *seconds: float) -> Contestant:
    runs = tuple(
        Run(round=number, seconds=one, cpu_seconds=2 * one, registry_cpu_seconds=0.5)
        for number, one in enumerate(seconds)
    )
    return Contestant(name=name, runs=runs)


def result(*contestants: Contestant, **changes: object) -> Result:
    machine = Machine(
        processor="a processor",
        cpus=2,
        memory_bytes=8 << 30,
        kernel="6.1",
        store_file_system="tmpfs rw",
        cgroup_limits={"cpu.max": "100000 100000"},
    )
    image = ImageFacts(name="small", manifest_digest="sha256:00", layers=7, compressed_bytes=60_000_000)
    values: dict[str, object] = {
        "benchmark": "unpack",
        "started": "2026-01-01T00:00:00+00:00",
        "machine": machine,
        "versions": {"imagedist": "0.1.0"},
        "image": image,
        "settings": {"registry": "docker-registry on loopback"},
        "contestants": contestants,
        "comparisons": comparisons(contestants, "imagedist"),
        "verdicts": (Verdict(what="slowest ÷ fastest", value=1.1, unit="×", aim="at most 1.2"),),
    }
    return Result.model_validate(values | changes)


OURS = contestant("imagedist", 1.0, 1.1, 0.9)
THEIRS = contestant("docker", 5.0, 5.5, 4.5)
ABSENT = Contestant(name="podman", not_run="podman not installed")


def shown(one: Result) -> str:
    output = StringIO()
    show(one, Console(file=output, width=200))
    return output.getvalue()


def test_a_saved_result_is_read_back_whole(tmp_path: Path) -> None:
    written = result(OURS, THEIRS, ABSENT)
    save(written, tmp_path / "result.json")
    assert load(tmp_path / "result.json") == written
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text('{"format": 2}')
    with pytest.raises(InputError, match=r"old\.json is no benchmark result of format 3"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"contestants": [1]}, "contestants.0"),
        ({"contestants": [{"name": "a", "runs": [{"round": 0, "seconds": -1}]}]}, "contestants.0.runs.0.seconds"),
        ({"contestants": [{"name": "a", "runs": [{"round": 0, "seconds": float("nan")}]}]}, "runs.0.seconds"),
        ({"verdicts": [{"what": "a", "value": float("inf"), "unit": "s", "aim": ""}]}, "verdicts.0.value"),
    ],
)
def test_a_broken_result_is_refused_with_the_place(changes: dict[str, object], where: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(json.loads(result(OURS).model_dump_json()) | changes))
    with pytest.raises(InputError, match=rf"no benchmark result of format 3: \S*{where}"):
        load(path)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"parts":[', '{"parts":[' * 5000])
def test_what_is_no_result_at_all_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match="no benchmark result"):
        load(tmp_path / "result.json")


def test_what_a_program_said_steers_no_terminal() -> None:
    row = Contestant(name="podman", not_run="\x1b[31mError:\x1b[0m\nno space\x00")
    assert row.not_run == "�[31mError:�[0m no space�"


def test_one_run_says_nothing_of_noise_and_few_pairs_have_no_interval_but_their_range() -> None:
    text = shown(result(contestant("imagedist", 1.0), contestant("docker", 2.0)))
    assert "SPREAD" not in text
    assert "ALL RATIOS" in text
    assert "95% INTERVAL" in shown(result(contestant("imagedist", *[1.0] * 6), contestant("docker", *[2.0] * 6)))


def test_what_works_for_a_row_on_other_hosts_has_a_column_of_its_own() -> None:
    run = Run(round=0, seconds=1, cpu_seconds=2, registry_cpu_seconds=0.5, figures={"site_cpu_seconds": 0.75})
    text = shown(result(Contestant(name="agent", runs=(run,)), THEIRS))
    assert "CPU-S OF ITS SITE" in text
    assert [line.split()[3:] for line in text.splitlines() if line.startswith("agent")] == [["2.00", "0.75", "0.50"]]


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no result \S*none\.json: expected a file"):
        load(tmp_path / "none.json")


def test_peers_are_compared_with_ours_pair_by_pair() -> None:
    (found,) = comparisons([OURS, THEIRS, ABSENT], "imagedist")
    assert (found.faster, found.slower) == ("imagedist", "docker")
    assert found.ratios == pytest.approx((5.0, 5.0, 5.0))
    assert found.low == pytest.approx(found.high)


def test_without_ours_there_is_nothing_to_compare() -> None:
    assert comparisons([THEIRS, ABSENT], "imagedist") == ()


def test_the_table_says_why_a_peer_has_no_figures() -> None:
    text = shown(result(OURS, THEIRS, ABSENT))
    assert "not run: podman not installed" in text
    assert "5.00×" in text
    assert "slowest ÷ fastest: 1.10 ×  (aim: at most 1.2: met)" in text
    assert "cpu.max 100000 100000" in text
    assert "noisy" not in text


def test_tables_are_told_as_markdown(tmp_path: Path) -> None:
    save(result(OURS, THEIRS, ABSENT), tmp_path / "result.json")
    told = CliRunner().invoke(app, ["report", str(tmp_path / "result.json"), "--markdown"])
    lines = [line for line in told.output.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert any(line.startswith("| not run: podman not installed |") for line in lines)


def test_a_noisy_result_says_so() -> None:
    assert "noisy" in shown(result(contestant("imagedist", 1.0, 1.0, 2.0)))


def test_a_file_tells_medians_and_noise_for_those_who_do_not_reckon(tmp_path: Path) -> None:
    save(result(contestant("imagedist", 1.0, 1.0, 2.0)), tmp_path / "result.json")
    told = json.loads((tmp_path / "result.json").read_text())
    assert told["noisy"] == ["imagedist"]
    assert (told["contestants"][0]["median_seconds"], told["contestants"][0]["spread"]) == (1.0, 1.0)
    assert [run["seconds"] for run in told["contestants"][0]["runs"]] == [1.0, 1.0, 2.0]


def test_costs_stand_beside_times() -> None:
    runs = (Run(round=0, seconds=1, cpu_seconds=2, memory_bytes=3e6, stored_bytes=4e6, written_bytes=5e6),)
    assert "WRITTEN MB" in (text := shown(result(Contestant(name="imagedist", runs=runs))))
    assert [line.split()[2:5] for line in text.splitlines() if line.startswith("imagedist")] == [["2.00", "3", "5"]]


def test_what_was_kept_says_that_it_is_partial_until_the_end(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    journal = Journal("imagedist-bench unpack", file)
    journal.stop("interrupted")
    assert not file.exists(), "nothing was measured"
    journal.keep(result(OURS))
    assert (load(file).partial, load(file).stopped) == (True, "")
    assert "partial: it was killed, or still runs" in shown(load(file))
    journal.stop("interrupted")
    assert "partial: interrupted; rows may be missing" in shown(load(file))
    journal.finish(result(OURS, THEIRS))
    assert (load(file).partial, load(file).command) == (False, "imagedist-bench unpack")
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_parts_are_shown_one_after_the_other() -> None:
    whole = result(benchmark="all", parts=(result(OURS, benchmark="unpack"), result(THEIRS, benchmark="pull")))
    text = shown(whole)
    assert text.index("unpack: small") < text.index("pull: small")


def test_what_a_runtime_said_is_shown_whatever_brackets_it_has(tmp_path: Path) -> None:
    reasons = {"podman": "failed: [/var/lib/x]", "docker": "[rootlesskit] said no"}
    absent = [Contestant(name=name, not_run=reason) for name, reason in reasons.items()]
    save(result(*absent, comparisons=()), tmp_path / "result.json")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "result.json")])
    assert all(reason in done.output for reason in reasons.values())
