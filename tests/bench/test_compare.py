"""What got faster or slower beyond noise, on made-up pairs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.compare import compare, differences
from bench.result import Contestant, Result, save
from bench.statistics import ratio_interval
from imagedist.errors import InputError
from tests.bench.test_result import OURS, contestant, result

STEADY = (1.00, 1.01, 0.99, 1.02, 1.00)
NOISY = (0.7, 1.3, 1.0, 1.5, 0.8)


def judged(before: tuple[float, ...], after: tuple[float, ...]) -> str:
    (change,) = compare(result(contestant("pull", *before)), result(contestant("pull", *after)))
    return change.judgement


def times(factor: float, seconds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(factor * one for one in seconds)


@pytest.mark.parametrize(
    ("before", "after", "judgement"),
    [
        (STEADY, STEADY, "same"),
        (STEADY, times(1.03, STEADY), "same"),  # beyond noise, but below the threshold
        (STEADY, times(1.3, STEADY), "slower"),
        (STEADY, times(0.7, STEADY), "faster"),
        (NOISY, times(1.3, NOISY), "same"),  # as much as the noise makes
        (NOISY, times(3.0, NOISY), "slower"),
        (STEADY, (1.0, 1.0, 1.0, 1.0, 9.0), "same"),  # one straggler
        ((1.0, 1.0), (2.0, 2.0), "unknown"),
    ],
)
def test_a_change_is_told_beyond_noise_and_threshold_only(
    before: tuple[float, ...], after: tuple[float, ...], judgement: str
) -> None:
    assert judged(before, after) == judgement


def test_unchanged_rows_are_seldom_told() -> None:
    source = random.Random(1)

    def five() -> tuple[float, ...]:
        return tuple(source.lognormvariate(0, 0.05) for _ in range(5))

    told = [judged(five(), five()) for _ in range(40)]
    assert told.count("same") >= 36


def test_the_interval_of_a_ratio_encloses_it() -> None:
    low, high = ratio_interval((1.0, 1.1, 0.9), (2.0, 2.2, 1.8))
    assert low <= 2.0 <= high
    assert (low, high) == ratio_interval((1.0, 1.1, 0.9), (2.0, 2.2, 1.8))
    with pytest.raises(ValueError, match="nothing"):
        ratio_interval((), (1.0,))


def test_rows_that_came_or_went_are_named_with_the_reason() -> None:
    gone = Contestant(name="podman", not_run="podman not installed")
    old = result(contestant("imagedist", *STEADY), contestant("podman", *STEADY))
    new = result(contestant("imagedist", *STEADY), gone, contestant("nerdctl", *STEADY))
    said = {change.row: (change.judgement, change.why) for change in compare(old, new)}
    assert said["podman"] == ("gone", "podman not installed")
    assert said["nerdctl"][0] == "new"


def test_parts_are_compared_with_the_parts_of_their_name() -> None:
    old = result(benchmark="all", parts=(result(contestant("a", *STEADY)),))
    new = result(benchmark="all", parts=(result(contestant("a", *times(2, STEADY))), result(benchmark="pull")))
    assert [(one.benchmark, one.row, one.judgement) for one in compare(old, new)] == [("unpack", "a", "slower")]
    with pytest.raises(InputError, match="nothing to compare"):
        compare(result(benchmark="pull"), result(benchmark="unpack"))


def test_rows_of_a_benchmark_that_failed_are_gone() -> None:
    old = result(benchmark="all", parts=(result(contestant("a", *STEADY)), result(OURS, benchmark="pull")))
    new = result(benchmark="all", parts=(result(contestant("a", *STEADY)),))
    said = [(one.benchmark, one.row, one.judgement) for one in compare(old, new)]
    assert said == [("unpack", "a", "same"), ("pull", "imagedist", "gone")]


def test_runs_of_no_time_are_no_measure() -> None:
    assert judged((0.0, 0.0, 0.0), STEADY) == judged(STEADY, (1.0, 0.0, 1.0)) == "unknown"


def test_other_machines_images_and_settings_are_named() -> None:
    old = result(contestant("a", *STEADY))
    other = old.machine.model_copy(update={"cpus": 64})
    image = old.image.model_copy(update={"manifest_digest": "sha256:11"})
    said = differences(old, old.model_copy(update={"machine": other, "image": image}))
    assert said == ["the machine (cpus)", "the image of unpack"]
    busy = old.model_copy(update={"settings": {**old.settings, "load_at_start": "3.00"}})
    assert differences(old, busy) == []


def run(tmp_path: Path, old: Result, new: Result, *options: str) -> tuple[int, str]:
    save(old, tmp_path / "old.json")
    save(new, tmp_path / "new.json")
    told = CliRunner().invoke(app, ["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json"), *options])
    return told.exit_code, told.output


def test_a_regression_is_named_and_ends_with_one(tmp_path: Path) -> None:
    old = result(contestant("imagedist", *STEADY), contestant("docker", *STEADY))
    new = result(contestant("imagedist", *times(2, STEADY)), contestant("docker", *times(0.5, STEADY)))
    code, text = run(tmp_path, old, new)
    assert code == 1
    assert "slower: imagedist\n" in text
    assert "faster: docker\n" in text
    code, text = run(tmp_path, old, new, "--json")
    assert code == 1
    assert [change["judgement"] for change in json.loads(text)["changes"]] == ["slower", "faster"]
    assert run(tmp_path, old, old)[0] == 0
    assert run(tmp_path, old, new, "--threshold", "2")[0] == 0


def test_results_that_tell_nothing_are_no_success(tmp_path: Path) -> None:
    few = result(contestant("imagedist", 1.0, 1.0))
    code, text = run(tmp_path, few, few)
    assert (code, "no row has 3 runs in both results" in text) == (InputError.exit_code, True)


def test_another_image_is_no_comparison_unless_asked_for(tmp_path: Path) -> None:
    old = result(contestant("imagedist", *STEADY))
    new = old.model_copy(update={"image": old.image.model_copy(update={"layers": 8})})
    code, text = run(tmp_path, old, new)
    assert (code, "not the same: the image of unpack" in text) == (InputError.exit_code, True)
    code, text = run(tmp_path, old, new, "--despite-differences")
    assert (code, "the ratios mean little" in text) == (0, True)
