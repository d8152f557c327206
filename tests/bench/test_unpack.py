"""Every contestant pulls a tiny image into a store of its own, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bench import images
from bench.account import Account, TreeAccount, cgroup_account, descendants, is_abandoned
from bench.contestant import Contestant, Ready
from bench.directories import remove_abandoned, short_directory
from bench.kubelet import Calls, Kubelet
from bench.peaks import held_bytes
from bench.places import Place, file_system
from bench.registry import LayoutRegistry, Registry, answers, registry
from bench.result import load
from bench.rounds import Job, measure
from bench.unpack import CONTESTANTS
from imagedist.errors import InputError
from tests.support.waiting import wait_until

DAEMONS = ("dockerd", "containerd", "docker-registry", "registry_proxy", "imagedist agent")


def nothing(line: str) -> None:
    """Says nothing."""


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from bench.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


@pytest.fixture
def no_daemon_stays() -> Iterator[None]:
    """Other files' tests may have some that live longer."""
    before = own_daemons()
    yield
    assert own_daemons().keys() <= before.keys()


def own_daemons() -> dict[int, str]:
    """Process ID → command line of this process's descendants that are daemons."""
    found = {}
    for process in descendants(os.getpid()):
        try:
            line = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if any(name in line for name in DAEMONS):
            found[process] = line
    return found


def pull_once(contestant: Contestant, directory: Path, running: Registry) -> None:
    built = images.tiny(directory / "cache")
    warm_up, reference = running.add(built, "bench/warm-up:1"), running.add(built, "bench/tiny:1")
    where = Place(directory, is_synced=False)
    (measured,) = measure([Job("it", contestant, reference)], where, running, 1, warm_up, nothing)
    assert measured.not_run is None
    (run,) = measured.runs
    assert run.seconds > 0
    assert run.cpu_seconds > 0
    # Of the site of proxy and seeder, which the agent's and kubelet's pulls with our snapshotter need.
    assert ("site_cpu_seconds" in run.figures) == (
        contestant.name == "agent" or (isinstance(contestant, Kubelet) and contestant.is_ours)
    )
    assert [path.name for path in directory.glob("*store*")] == []


class Broken:
    """A peer whose client is not there."""

    name = "broken"
    is_ours = False

    def cannot(self) -> str | None:
        return None

    def version(self) -> str:
        return "none"

    @contextmanager
    def ready(self, store: Path, account: Account, registry: str) -> Iterator[Ready]:
        yield Ready(lambda reference: ["/nowhere/client", reference])


@pytest.mark.e2e("docker-registry", "skopeo", "docker.io", "containerd", "podman", "umoci")
@pytest.mark.usefixtures("no_daemon_stays")
@pytest.mark.parametrize("name", ["imagedist", "agent", "docker", "containerd", "podman", "skopeo+umoci"])
def test_a_contestant_pulls_into_its_own_store_and_leaves_nothing(name: str) -> None:
    with short_directory() as directory:
        with registry(directory / "registry") as running:
            pull_once(CONTESTANTS[name], directory, running)
        assert str(directory) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.root
@pytest.mark.e2e("docker-registry", "skopeo", "containerd")
@pytest.mark.usefixtures("no_daemon_stays")
@pytest.mark.parametrize(
    "contestant",
    [Kubelet("it", "overlayfs"), Kubelet("it", "imagedist"), Calls("it", "overlayfs"), Calls("it", "imagedist")],
    ids=lambda one: f"{type(one).__name__}-{one.snapshotter}",
)
def test_a_node_of_kubelet_pulls_and_is_asked_with_either_snapshotter(contestant: Contestant) -> None:
    with short_directory() as directory:
        with registry(directory / "registry") as running:
            pull_once(contestant, directory, running)
        assert str(directory) not in Path("/proc/self/mountinfo").read_text()


def test_a_peer_that_fails_has_a_reason_and_no_figures(tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as running:
        reference = running.add(images.tiny(tmp_path / "cache"), "bench/tiny:1")
        where = Place(tmp_path, is_synced=False)
        (measured,) = measure([Job("broken", Broken(), reference)], where, running, 2, reference, nothing)
    assert measured.runs == ()
    assert measured.not_run
    assert "/nowhere/client" in measured.not_run


@pytest.mark.root
def test_an_account_counts_children_that_nobody_waited_for() -> None:
    with cgroup_account() as account:
        if account is None:
            pytest.skip("this machine lets root make no cgroup")
        orphan = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
        script = f'"{sys.executable}" -c "{orphan}" & exit 0'
        subprocess.run(account.enter(["sh", "-c", script]), check=True)
        while account.processes():
            os.sched_yield()
        assert account.cpu_seconds() >= 0.2


def test_without_cgroups_children_are_counted_once_they_ended() -> None:
    account = TreeAccount()
    before = account.cpu_seconds()
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run(account.enter([sys.executable, "-c", burn]), check=True)
    assert account.cpu_seconds() - before >= 0.25


def test_the_projects_own_registry_stands_in_for_debians(tmp_path: Path) -> None:
    with ExitStack() as stack:
        running = LayoutRegistry(tmp_path, stack)
        reference = running.add(images.tiny(tmp_path / "cache"), "bench/tiny:1")
        address, _, rest = reference.partition("/")
        assert rest == "bench/tiny:1"
        assert answers(f"http://{address}/v2/bench/tiny/manifests/1")
        assert running.account.cpu_seconds() > 0


def test_what_a_killed_benchmark_left_is_removed() -> None:
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, signal; from bench.directories import short_directory\n"
            "with short_directory() as directory: print(directory, flush=True); os.kill(os.getpid(), signal.SIGKILL)",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    left = Path(killed.stdout.strip())
    assert is_abandoned(left.name)  # a benchmark of another test that begins now may remove it before we do
    with short_directory() as ours:
        remove_abandoned()
        assert ours.is_dir()
    wait_until(lambda: not left.exists(), "it is removed")


def test_held_bytes_count_pages_and_not_holes(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 30)
        file.write(b"x" * 100_000)
    assert 100_000 <= held_bytes(tmp_path) < 200_000


def test_the_file_system_of_a_directory_is_named() -> None:
    assert file_system(Path("/proc/self")).startswith("proc ")


def test_an_unknown_contestant_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    done = bench("unpack", "--quick", "--contestants", "rkt", "--cache", str(tmp_path), "--store", str(tmp_path))
    assert done.returncode == InputError.exit_code
    assert done.stderr.startswith("imagedist-bench: no contestant 'rkt': there are imagedist,")


@pytest.mark.e2e("docker-registry", "skopeo", "podman")
def test_the_command_writes_a_result_that_can_be_shown_again(tmp_path: Path) -> None:
    with short_directory() as directory:
        layout = images.tiny(directory / "cache")
        with registry(directory / "registry") as running:
            reference = running.add(layout, "bench/tiny:1")
            places = ["--cache", str(directory / "cache"), "--store", str(directory / "stores")]
            names = ["--contestants", "imagedist,podman"]
            file = tmp_path / "result.json"
            done = bench("unpack", "--image", reference, "--rounds", "2", *names, *places, "--json", str(file))
    assert done.returncode == 0, done.stderr
    result = load(file)
    assert [len(row.runs) for row in result.contestants] == [2, 2]
    assert result.comparisons[0].slower == "podman"
    assert {"imagedist", "podman", "python", "isal"} <= result.versions.keys()
    assert json.loads(file.read_text())["format"] == 3
    assert result.command.startswith("imagedist-bench unpack --image ") or "main()" in result.command
    assert not result.partial
    without_costs = [
        (row.name, run)
        for row in result.contestants
        for run in row.runs
        if not run.memory_bytes or not run.stored_bytes
    ]
    assert not without_costs
    assert result.contestant("imagedist").figure("extract_seconds") > 0
    assert bench("report", str(file)).stdout == done.stdout
