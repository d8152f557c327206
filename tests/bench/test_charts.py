"""A report's page is whole by itself, and its charts show what the rows say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.bursts import BY_IMAGEDIST, STRAIGHT, seconds_of
from bench.charts import charts_of
from bench.cli import app
from bench.headlines import aims, headlines
from bench.report import table
from bench.result import Contestant, ImageFacts, Result, Run, Verdict, save
from bench.session import aim_with
from imagedist.errors import InputError
from tests.bench.test_result import ABSENT, OURS, THEIRS, result


def layers(series: str, count: int, seconds: float) -> Contestant:
    figures = {
        "fetch_seconds": 0.2,
        "inflate_seconds": 0.7,
        "hash_seconds": 0.3,
        "extract_seconds": 0.8,
        "merge_seconds": 0.1,
    }
    run = Run(round=0, seconds=seconds, cpu_seconds=1, figures=figures if series == "imagedist" else {})
    return Contestant(name=f"{series}, {count}", labels={"series": series, "layers": count}, runs=(run,))


def nodes(series: str, count: int) -> Contestant:
    figures = {f"node_{number}_seconds": 1.0 + number for number in range(count)}
    run = Run(round=0, seconds=count, cpu_seconds=1, figures=figures)
    labels: dict[str, int | str] = {"series": series, "nodes": count}
    return Contestant(name=f"{count} {series}", labels=labels, runs=(run,), summary={"site sent": 1.5})


def simulated(count: int) -> Contestant:
    labels: dict[str, int | str] = {"series": BY_IMAGEDIST, "nodes": count}
    return Contestant(name=f"{count}", labels=labels, summary={"p50 s": 2, "p99 s": 3, "max s": 4, "site sent": 2})


@pytest.fixture(scope="module")
def whole() -> Result:
    none: dict[str, object] = {"comparisons": (), "verdicts": ()}
    swarm = [nodes(series, count) for series in (STRAIGHT, BY_IMAGEDIST) for count in (1, 4)]
    cuts = [layers(series, count, 1.0) for series in ("imagedist", "docker") for count in (1, 4, 8)]
    figures = {"fetch_seconds": 0.2}
    cuts.append(Contestant(name="1 CPU", runs=(Run(round=0, seconds=1, cpu_seconds=1, figures=figures),)))
    limit = Contestant(name="limit", runs=(Run(round=0, seconds=1, cpu_seconds=2, figures={"inflate_cpu_seconds": 2}),))
    parts = (
        result(*swarm, benchmark="swarm", **none),
        result(simulated(4), simulated(1000), benchmark="simulate", **none),
        result(*cuts, benchmark="layers", **none),
        result(limit, benchmark="limit", **none),
        result(OURS, THEIRS, ABSENT, benchmark="pull"),
    )
    return result(benchmark="all", command="imagedist-bench all <&>", parts=parts, partial=True, stopped="interrupted")


def test_a_page_needs_nothing_from_elsewhere_and_no_script(whole: Result, tmp_path: Path) -> None:
    save(whole, tmp_path / "result.json")
    page, charts = tmp_path / "report.html", tmp_path / "charts"
    options = ["--html", str(page), "--charts", str(charts)]
    told = CliRunner().invoke(app, ["report", str(tmp_path / "result.json"), *options])
    assert told.exit_code == 0, told.output
    text = page.read_text()
    assert "<script" not in text
    assert set(re.findall(r'(?:src|href)="([^"]{0,5})', text)) == {"data:"}
    assert "partial: interrupted" in text
    assert "imagedist-bench all &lt;&amp;&gt;" in text
    assert "not run: podman: podman not installed" in text
    assert "Hollow markers: not measured but simulated" in text
    assert {path.name for path in charts.iterdir()} == {
        f"{name}.{kind}" for name in ("distribution", "unpack", "stages", "pull") for kind in ("png", "svg")
    }


def test_the_same_rows_give_the_same_pictures(whole: Result) -> None:
    first, second = charts_of([whole]), charts_of([whole])
    assert [chart.drawn.svg for chart in first] == [chart.drawn.svg for chart in second]


def test_charts_without_rows_are_left_out() -> None:
    assert [chart.name for chart in charts_of([result(OURS, THEIRS, ABSENT)])] == ["pull"]
    assert charts_of([result(benchmark="caps")]) == []


def test_times_are_of_all_nodes_and_runs_together() -> None:
    assert seconds_of(nodes(STRAIGHT, 4)) == {"p50": 2.0, "p99": 4.0, "max": 4.0}
    assert seconds_of(simulated(4)) == {"p50": 2, "p99": 3, "max": 4}
    assert seconds_of(ABSENT) == {}


def test_only_a_report_imports_matplotlib() -> None:
    script = "import sys, bench.cli; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    told = CliRunner().invoke(app, ["report", str(tmp_path / "other.json")])
    assert told.exit_code == InputError.exit_code
    assert "other.json is no benchmark result of format 3" in told.output


def test_names_of_any_length_and_script_are_drawn() -> None:
    name = "_<script> 很长 \x00 " + "x" * 5000
    parts = [
        result(layers(name, 1, 2.0), layers(name, 4, 2.0), benchmark="layers", comparisons=()),
        result(nodes(name, 2), benchmark="swarm", comparisons=()),
        result(OURS, Contestant(name=name, runs=THEIRS.runs), benchmark="pull"),
    ]
    found = charts_of(parts)
    assert [chart.name for chart in found] == ["distribution", "unpack", "pull"]
    assert all(len(chart.drawn.png) < 1_000_000 for chart in found)


def test_rows_that_all_did_not_run_make_no_chart() -> None:
    absent = Contestant(name="docker, 1", labels={"series": "docker", "layers": 1}, not_run="no docker")
    assert charts_of([result(absent, benchmark="layers", comparisons=()), result(ABSENT, benchmark="pull")]) == []


def test_labels_that_are_none_of_ours_are_not_drawn() -> None:
    rows = [Contestant(name=name, labels={name: "x"}, runs=OURS.runs) for name in ("layers", "nodes")]
    assert charts_of([result(*rows, benchmark="layers", comparisons=())]) == []


def test_the_first_of_two_results_is_drawn_alone() -> None:
    (chart,) = charts_of([result(OURS, benchmark="pull"), result(OURS, THEIRS, benchmark="pull")])
    assert chart.drawn.svg == charts_of([result(OURS, benchmark="pull")])[0].drawn.svg


def test_a_burst_in_which_nodes_never_had_the_image_makes_no_sentence() -> None:
    row = simulated(1000).model_copy(update={"summary": {"p50 s": 2.0, "p99 s": 3.0}})
    assert headlines([result(row, benchmark="simulate", comparisons=())]) == []


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_a_library_that_is_missing_is_told_before_anything_is_measured(
    library: str, whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(whole, tmp_path / "result.json")
    monkeypatch.setitem(sys.modules, library, None)
    told = CliRunner().invoke(app, ["report", str(tmp_path / "result.json"), "--html", str(tmp_path / "page.html")])
    assert told.exit_code == InputError.exit_code
    assert f"a report needs {library}: pip install 'imagedist[bench]'" in told.output


@pytest.mark.parametrize("page", ["/", "", "result.json/page.html"])
def test_a_page_that_cannot_be_written_is_told(page: str, whole: Result, tmp_path: Path) -> None:
    save(whole, tmp_path / "result.json")
    where = str(tmp_path / page) if "." in page else page
    told = CliRunner().invoke(app, ["report", str(tmp_path / "result.json"), "--html", where])
    assert (told.exit_code, "cannot write" in told.output) == (InputError.exit_code, True)


def test_a_name_that_looks_like_a_formula_is_drawn_as_it_stands() -> None:
    drawn = charts_of([result(OURS, Contestant(name=r"$\frac$", runs=THEIRS.runs), benchmark="pull")])
    assert len(drawn) == 1


def test_a_report_begins_with_what_a_user_decides_by(whole: Result) -> None:
    said = headlines([whole])
    assert said[0].startswith("4 nodes: half had a new image of")
    assert "in 2.0 s, all in 4.0 s (straight from the registry: 4.0 s)" in said[0]
    assert said[1].startswith("1000 nodes, simulated: half had")
    assert said[2].startswith("One node had image")
    assert "docker" in said[2]
    assert "docker 5.0 (5.0 to 5.0)" in said[2]
    assert headlines([result(ABSENT)]) == []


def test_aims_that_a_number_meets_are_listed_with_the_figure() -> None:
    verdicts = (
        Verdict(what="ours ÷ limit", value=1.3, unit="×", aim="at most 1.15"),
        Verdict(what="fat layer", value=1.8, unit="×", aim="at least 1.6"),
        Verdict(what="theirs", value=2, unit="×", aim="for comparison"),
    )
    titles, rows = aims([result(OURS, verdicts=verdicts)])
    assert titles == ["", "MEASURED", "AIM", ""]
    assert [row[1:] for row in rows] == [["1.30 ×", "at most 1.15", "MISSED"], ["1.80 ×", "at least 1.6", "met"]]


def test_aims_are_those_of_the_reference_image() -> None:
    def aim(image: str) -> str:
        facts = ImageFacts(name=image, manifest_digest="", layers=1, compressed_bytes=1)
        return aim_with(facts, "at most 1.15")

    assert aim("reference,layers=1") == "at most 1.15"
    assert aim("small") == "at most 1.15 with reference"


def test_columns_that_say_nothing_are_left_out() -> None:
    titles, rows = table(result(nodes(STRAIGHT, 2), comparisons=()))
    assert titles == ["", "SECONDS", "CPU-SECONDS"]
    assert [len(row) for row in rows] == [3]
