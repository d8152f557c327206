"""Runtimes that are pointed at the mirror by their files, and those that do not heed them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imagedist.config import parse_address
from imagedist.doctor import runtimes, snapshotter
from imagedist.doctor.asking import ask
from imagedist.doctor.finding import Finding
from imagedist.runtimes import Settings
from imagedist.runtimes.applying import apply
from imagedist.runtimes.plan import plan
from imagedist.runtimes.survey import found, report
from tests.runtimes.trees import DEBIANS_CONTAINERD, program, put, settings
from tests.support.site import Site


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A tree with a containerd and a docker, whose programs say what theirs would."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs, "containerd", "containerd github.com/containerd/containerd 1.6.20 abc")
    monkeypatch.setenv("PATH", str(programs))
    root = tmp_path / "node"
    put(root, "/etc/containerd/config.toml", DEBIANS_CONTAINERD)
    return settings(root)


def examined(node: Settings, started: float | None = None) -> dict[str, Finding]:
    return {
        runtime.key: finding
        for runtime in found(node)
        for finding in runtimes.examine(runtime, report(runtime), node, None, lambda name: started)
    }


def configure(node: Settings) -> None:
    apply(node, plan(found(node), ["containerd"]))


def test_a_runtime_that_is_not_pointed_at_the_mirror_is_named_with_the_command(node: Settings) -> None:
    one = examined(node)["containerd"]
    assert (one.severity, one.code) == ("warn", "runtime-unconfigured")
    assert one.fix == "imagedist runtimes --apply containerd"


async def test_a_snapshotter_that_does_not_run_is_bad_only_where_a_runtime_needs_it(
    node: Settings, tmp_path: Path
) -> None:
    socket = tmp_path / "nobody.sock"
    before = await snapshotter.listens(socket, snapshotter.dependents(node))
    assert (before.severity, before.code) == ("warn", "snapshotter")
    assert "no runtime here uses it" in before.why
    configure(node)
    after = await snapshotter.listens(socket, snapshotter.dependents(node))
    assert after.severity == "bad"
    assert after.why.startswith("containerd wait")


def test_a_file_that_the_daemon_read_at_its_start_is_heeded(node: Settings) -> None:
    configure(node)
    changed = os.stat(node.at("/etc/containerd/config.toml")).st_mtime
    assert examined(node, started=changed + 1)["containerd"].severity == "ok"
    assert examined(node, started=None)["containerd"].severity == "ok", "it does not run: it will read it"


def test_a_mirror_that_is_silently_unused_is_found(node: Settings) -> None:
    configure(node)
    changed = os.stat(node.at("/etc/containerd/config.toml")).st_mtime
    one = examined(node, started=changed - 1)["containerd"]
    assert (one.severity, one.code) == ("bad", "runtime-unheeded")
    assert "config.toml" in one.what
    assert one.fix == "systemctl restart containerd"


def test_hosts_toml_is_read_at_every_pull(node: Settings) -> None:
    configure(node)
    started = os.stat(node.at("/etc/containerd/config.toml")).st_mtime + 1
    os.utime(node.at("/etc/containerd/certs.d/_default/hosts.toml"), (started + 60, started + 60))
    assert examined(node, started)["containerd"].severity == "ok"


@pytest.mark.parametrize(
    ("told", "is_bad"),
    [
        ('["http://127.0.0.1:5050/"]', False),
        ("[]", True),
        ("null", True),
        ('["https://other.example/"]', True),
        ("", False),
    ],
)
def test_what_dockerd_says_that_it_uses_counts(told: str, is_bad: bool) -> None:
    found = runtimes.docker_heeds(Settings(), lambda *command: told)
    assert [finding.code for finding in found] == (["runtime-unheeded"] if is_bad else [])


def test_a_runtime_that_has_never_asked_is_not_proven(node: Settings) -> None:
    configure(node)
    (runtime,) = found(node)
    proven = runtimes.examine(runtime, report(runtime), node, {"containerd": 3}, lambda name: None)
    assert [finding.code for finding in proven] == ["runtime"]
    unproven = runtimes.examine(runtime, report(runtime), node, {"docker": 3}, lambda name: None)
    assert [(finding.severity, finding.code) for finding in unproven][1:] == [("unknown", "runtime-unproven")]


async def test_who_has_asked_the_mirror_is_in_its_metrics(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, site.agent() as (_, mirror, _):
        before = await runtimes.askers(parse_address(mirror))
        await ask(f"http://{mirror}/v2/")
        asked = await runtimes.askers(parse_address(mirror))
    assert before is not None
    assert asked is not None
    assert asked["other"] > before["other"]
    assert asked["docker"] == before["docker"]


def test_a_process_is_found_by_its_name_with_the_time_of_its_start(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu 1 2\nbtime 1000\n")
    for process, ticks in (("7", 500), ("8", 200)):
        (tmp_path / process).mkdir()
        (tmp_path / process / "comm").write_text("containerd\n")
        (tmp_path / process / "stat").write_text(f"{process} (a) b) S {'0 ' * 18}{ticks} 0 0\n")
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    assert runtimes.started_at("containerd", tmp_path) == 1000 + 200 / ticks_per_second
    assert runtimes.started_at("crio", tmp_path) is None
