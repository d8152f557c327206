"""The commands are even: the same options for the same things, told on standard error, kept under way."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from io import StringIO
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from bench.cli import app
from bench.commands.progress import Progress
from bench.result import Result

OTHERS = {"image", "report", "compare"}
"""They measure nothing."""
COMMANDS = {
    command.name or command.callback.__name__: inspect.signature(command.callback, eval_str=True)
    for command in app.registered_commands
    if command.callback is not None
}
MEASURING = sorted(COMMANDS.keys() - OTHERS)
OF_AN_IMAGE = ["unpack", "pull", "layers", "limit", "update", "memory", "runtimes"]


def help_of(command: str, option: str) -> str:
    for meta in COMMANDS[command].parameters[option].annotation.__metadata__:
        if isinstance(meta, typer.models.OptionInfo):
            return meta.help or ""
    raise AssertionError(f"{command} has no --{option}")


@pytest.mark.parametrize("command", MEASURING)
def test_every_benchmark_has_a_quick_form_and_a_file_for_its_result(command: str) -> None:
    assert COMMANDS[command].parameters["json"].annotation == COMMANDS["unpack"].parameters["json"].annotation
    assert help_of(command, "quick").endswith(".")
    told = CliRunner().invoke(app, [command, "--help"])
    assert told.exit_code == 0
    assert "--quick" in told.output


@pytest.mark.parametrize("command", OF_AN_IMAGE)
def test_options_of_an_image_are_the_same_everywhere(command: str) -> None:
    for option in ("image", "rounds", "quick", "store", "ext4", "cache"):
        ours, theirs = COMMANDS[command].parameters[option], COMMANDS["unpack"].parameters[option]
        assert help_of(command, option) == help_of("unpack", option)
        assert ours.default == (3 if (command, option) == ("memory", "rounds") else theirs.default)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["unpack", "--rounds", "0"], "--rounds"),
        (["unpack", "--rounds", "many"], "--rounds"),
        (["unpack", "--nodes", "3"], "No such option"),
        (["unpack", "three"], "unexpected extra argument"),
        (["measure"], "No such command"),
        (["crowd", "--nodes", "0"], "--nodes"),
        (["caps", "--upload", "none"], "--upload none is no cap"),
        (["scaleout", "--cap", "none"], "--cap none is no cap"),
        (["transfer", "--size", "1000TB"], "measuring a transfer needs 3000000.5 GB of memory"),
        (["caps", "--upload", "100GB/s"], "measuring caps needs"),
        (["transfer", "--size", "much"], "'much'"),
        (["swarm", "--size", "0"], "--size 0 is too small: expected 4MB at least"),
        (["swarm", "--proxy", "nonsense = 1"], "unknown key proxy.nonsense; allowed here: access_log"),
        (["lone", "--agent", "heartbeat = 1 s"], "--agent 'heartbeat = 1 s' is not TOML"),
        (["scaleout", "--layer", "1"], "--layer 1 is too small"),
        (["image", "--image", "random-100TB"], "free for images: random-100TB needs 500000.0 GB"),
        (["transfer", "--json", "/proc/result.json"], "cannot write the result /proc/result.json"),
    ],
)
def test_wrong_words_are_told_in_a_line_with_the_code_for_usage(arguments: list[str], said: str) -> None:
    told = CliRunner().invoke(app, arguments)
    assert (told.exit_code, said in told.output) == (2, True), told.output


@pytest.mark.parametrize("command", ["unpack", "transfer", "swarm", "simulate", "all"])
def test_a_result_that_cannot_be_written_is_told_first(command: str, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, [command, "--json", str(tmp_path / "none" / "result.json")])
    assert (told.exit_code, "cannot write the result" in told.output) == (2, True), told.output


@pytest.mark.parametrize("command", ["swarm", "lone", "many", "neighbour", "sites", "scaleout"])
def test_what_a_test_network_needs_is_told_first(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    told = CliRunner().invoke(app, [command, "--quick"])
    assert (told.exit_code, "needs root: run it with sudo" in told.output) == (2, True), told.output


@pytest.mark.root
@pytest.mark.parametrize(
    ("command", "program"),
    [("swarm", "docker-registry"), ("lone", "skopeo"), ("neighbour", "wrk"), ("sites", "curl"), ("proxy", "nginx")],
)
def test_a_missing_program_is_told_with_the_package_that_has_it(
    command: str, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, *rest, **more: None if name == program else there(name, *rest, **more)
    )
    if command == "proxy":  # its peer is a row without figures
        from bench.processes import missing

        assert missing("nginx") == "nginx not installed (apt-get install nginx)"
        return
    told = CliRunner().invoke(app, [command, "--quick"])
    assert told.exit_code == 2, told.output
    assert f"{program} not installed (apt-get install" in told.output


def test_standard_output_has_the_json_alone() -> None:
    told = CliRunner().invoke(app, ["simulate", "--nodes", "1,4", "--size", "4MB", "--json", "-"])
    assert told.exit_code == 0, told.output
    assert Result.model_validate(json.loads(told.stdout)).benchmark == "simulate"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_terminal_is_told_how_long_it_takes_yet() -> None:
    clock, out = Clock(), StringIO()
    say = Progress(clock)
    with say.shown(Console(file=out, force_terminal=True, width=100)):
        clock.now = 10.0
        say("round 1 of 3: imagedist")
        assert say.status() == "0:10 elapsed"
        clock.now = 70.0
        say("round 2 of 3: docker")
        clock.now = 75.0
        say("round 2 of 3: imagedist")
        assert say.status() == "1:15 elapsed, round 2 of 3, about 1:55 of these rounds left"
        say("round 1 of 2: another part")
        assert say.status() == "1:15 elapsed"
    assert "1:10 round 2 of 3: docker" in out.getvalue()


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say = Progress()
    with say.shown(Console(file=StringIO())):
        say("round 1 of 3: [imagedist]")
    assert capsys.readouterr() == ("", "round 1 of 3: [imagedist]\n")
    assert sys.stderr is not None
