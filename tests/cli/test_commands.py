"""What a user sees of wrong input and of Ctrl-C: one readable line, the right exit code, nothing left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imagedist.cli import app
from imagedist.overlay.store import OverlayStore
from imagedist.progress import STAGES, Event
from tests.support.children import wait_for_children
from tests.support.layers import directory, file, image
from tests.support.registry import FaultyRegistry

NOWHERE = ("127.0.0.1:1/app:1", "--plain-http", "--no-agent")
BUILT = image([[directory("etc"), file("etc/a", os.urandom(200_000))], [file("b", os.urandom(100_000))]])


@pytest.fixture
def log_of_its_own() -> Iterator[None]:
    """What a command that runs for long sets up ends with the test, and touches nobody else's."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    yield
    root.handlers = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (("pull", "registry.example/UPPER:1"), 2, "not a repository name"),
        (("pull", *NOWHERE), 1, "cannot reach registry 127.0.0.1:1"),
        (("pull", *NOWHERE, "--platform", "linux"), 2, "expected os/architecture"),
        (("pull", *NOWHERE, "--ramdisk-budget", "many"), 2, "bad size 'many'"),
        (("pull", *NOWHERE, "--workers", "0"), 2, "--workers"),
        (("pull", *NOWHERE, "--workers", "many"), 2, "--workers"),
        (("pull", *NOWHERE, "--cpus", "a-b"), 2, "bad --cpus 'a-b': expected a CPU list such as 0-3,8"),
        (("pull", *NOWHERE, "--nice", "99"), 2, "--nice"),
        (("pull", *NOWHERE, "--io-class", "fast"), 2, "--io-class"),
        (("pull", *NOWHERE, "--strategy", "quick"), 2, "--strategy"),
        (("pull", *NOWHERE, "--scratch", "tape"), 2, "--scratch"),
        (("pull", *NOWHERE, "--scratch", "disk", "--ramdisk-budget", "1GiB"), 2, "--scratch disk uses no ramdisk"),
        (("pull", *NOWHERE, "--into", "lxc"), 2, "--into"),
        (("pull", *NOWHERE, "--frobnicate"), 2, "--frobnicate"),
        (("pull",), 2, "Missing argument 'reference'"),
        (("frobnicate",), 2, "frobnicate"),
        (("pull", *NOWHERE, "--cpus", "few"), 2, "bad --cpus 'few'"),
        (("pull", *NOWHERE, "--cpus", "100000"), 1, "cannot place unpacking on CPUs 100000"),
        (("pull", *NOWHERE, "--via", "proxy:5001"), 2, "bad --via 'proxy:5001'"),
        (("pull", *NOWHERE, "--via", "http://["), 2, "bad --via"),
        (("pull", *NOWHERE, "--into", "docker"), 2, "needs this node's agent"),
        (("pull", "app", "--socket", "/nowhere"), 2, "no agent listens at /nowhere"),
        (("pull", *NOWHERE, "--root", "/dev/null"), 1, "cannot prepare the image store"),
        (("inspect", "app"), 1, "no image app in the store"),
        (("mount", "app"), 1, "no image app in the store"),
        (("umount", "app"), 1, "no image app in the store"),
        (("rm", "app"), 1, "no image app in the store"),
        (("swarm", "--socket", "/nowhere"), 2, "no agent listens at /nowhere"),
        (("limit", "--socket", "/nowhere"), 2, "no agent listens at /nowhere"),
        (("sync", "plan", "--seeder", "http://127.0.0.1:1"), 1, "http://127.0.0.1:1 does not answer"),
        (("verify", "nowhere", "http://127.0.0.1:1"), 2, "bad place 'nowhere': expected a URL"),
        (("verify", "a/b=http://127.0.0.1:1", "http://127.0.0.1:1"), 2, "bad place 'a/b=http://127.0.0.1:1': before ="),
        (("verify", "http://127.0.0.1:1", "http://127.0.0.1:1"), 1, "cannot reach registry 127.0.0.1:1"),
        (("sync", "run", "--seeder", "nowhere"), 2, "bad --seeder 'nowhere'"),
        (("sync", "status", "--seeder", "http://127.0.0.1:1", "--token-file", "/nowhere"), 2, "cannot read /nowhere"),
        (("limit", "--upload", "fast"), 2, "bad rate: expected a rate such as"),
        (("limit", "--download", "0"), 2, '"none" means no limit'),
        (("limit", "--reset", "--upload", "none"), 2, "--reset sets everything back"),
        (("limit", "--reset", "--quiet"), 2, "--reset sets everything back"),
        (("limit", "--connections", "1"), 2, "bad --connections 1: expected 2 or more"),
        (("limit", "--connections", "many"), 2, "--connections"),
        (("purge", "app", "--socket", "/nowhere"), 2, "no agent listens at /nowhere"),
        (("purge", f"app@sha256:{'0' * 64}", "--proxy", "http://a"), 2, "what a digest names never changes"),
        (("purge", "app", "--proxy", "a:5001"), 2, "bad --proxy 'a:5001'"),
        (("purge", "app", "--proxy", "http://127.0.0.1:1"), 1, "the site cannot answer"),
        (("agent", "--config", "/nowhere"), 2, "cannot read configuration /nowhere"),
    ],
)
@pytest.mark.usefixtures("log_of_its_own")
def test_wrong_input_ends_in_one_line_and_the_right_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], exit_code: int, says: str
) -> None:
    monkeypatch.delenv("IMAGEDIST_SOCKET", raising=False)
    rootless = ("agent", "swarm", "limit", "purge", "sync", "verify", "frobnicate")
    rooted = arguments[0] not in rootless and "--root" not in arguments
    if rooted:
        OverlayStore(tmp_path / "root")
    done = CliRunner().invoke(app, [*arguments, *(("--root", str(tmp_path / "root")) if rooted else ())])
    assert done.exit_code == exit_code
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [("images",), ("inspect", "app"), ("mount", "app"), ("umount", "app"), ("rm", "app"), ("gc",), ("diff", "a", "b")],
)
def test_a_directory_that_is_no_store_is_called_so_and_not_made_one(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "mistyped").mkdir()
    for root in (tmp_path / "mistyped", tmp_path / "none"):
        done = CliRunner().invoke(app, [*arguments, "--root", str(root)])
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
        assert f"no image store at {root}" in done.stderr
    assert list(tmp_path.rglob("*")) == [tmp_path / "mistyped"]


class AfterTheConfig(asyncio.Event):
    """A gate that lets the two halves of the image config pass; sets ``reached`` at the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self._passed = 0

    async def wait(self) -> bool:
        self._passed += 1
        if self._passed <= 2:
            return True
        self.reached.set()
        return bool(await super().wait())


def files_below(path: Path) -> list[Path]:
    return [found for found in path.rglob("*") if found.is_file() and not found.name.endswith("lock")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_pull_leaves_no_process_and_no_partial_state(tmp_path: Path, number: int) -> None:
    async with FaultyRegistry() as registry:
        for content in BUILT.blobs.values():
            registry.add_blob(content)
        registry.add_manifest("app", "1", BUILT.image.manifest_bytes)
        gate = registry.gate = AfterTheConfig()
        reference = f"{registry.url.removeprefix('http://')}/app:1"
        places = ("--root", str(tmp_path / "root"), "--ramdisk", str(tmp_path / "ramdisk"))
        options = ("--plain-http", "--no-agent", "--platform", "linux/amd64", "--workers", "2")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "imagedist", "pull", reference, *options, *places),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await gate.reached.wait()
        workers = await asyncio.to_thread(wait_for_children, 2, process.pid)
        assert len(workers) == 2
        process.send_signal(number)
        if number == signal.SIGTERM:
            process.send_signal(number)  # an impatient user does no harm
        _, complaint = await process.communicate()
        gate.set()
    assert process.returncode == 130, complaint
    assert complaint.splitlines()[-1] == b"imagedist: interrupted; nothing half-done was kept"
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert files_below(tmp_path / "ramdisk") == []
    own = tmp_path / "root" / "imagedist"
    assert files_below(own / "building") == files_below(own / "spill") == []
    assert not list((tmp_path / "root" / "overlay").glob("*/diff"))


@pytest.mark.parametrize(
    "options",
    [
        ("--strategy", "parallel"),
        ("--strategy", "staged", "--scratch", "ramdisk"),
        ("--strategy", "serial", "--scratch", "disk", "--workers", "1", "--nice", "1"),
    ],
    ids=lambda options: options[1],
)
async def test_every_strategy_tells_its_stages_and_how_busy_each_was(tmp_path: Path, options: tuple[str, ...]) -> None:
    async with FaultyRegistry() as registry:
        for content in BUILT.blobs.values():
            registry.add_blob(content)
        registry.add_manifest("app", "1", BUILT.image.manifest_bytes)
        reference = f"{registry.url.removeprefix('http://')}/app:1"
        places = ("--root", str(tmp_path / "root"), "--plain-http", "--no-agent", "--platform", "linux/amd64")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "imagedist", "pull", reference, "--json", *places, *options),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    events = [Event.parse(line) for line in output.decode().splitlines()]
    told = [event for event in events if event is not None]
    assert len(told) == len(events)
    assert (told[0].event, told[-1].event) == ("resolved", "done")
    assert set(told[-1].stages or ()) == set(STAGES)
    layers = [layer.descriptor for layer in BUILT.image.layers]
    by_stage = {
        stage: sum(event.bytes or 0 for event in told if event.event == stage)
        for stage in ("fetched", "decoded", "extracted")
    }
    assert by_stage["fetched"] == told[-1].bytes == sum(layer.size_bytes for layer in layers)
    assert by_stage["decoded"] == by_stage["extracted"] == told[-1].decoded_bytes
    assert [event.layer for event in told if event.event == "merged"] == [layer.digest for layer in layers]


@pytest.mark.parametrize(
    "words",
    [
        *([name] for name in ("pull", "images", "inspect", "mount", "umount", "rm", "gc")),
        *([name] for name in ("agent", "swarm", "limit", "runtimes", "doctor", "demo")),
        [],
    ],
)
def test_every_command_has_help(words: list[str]) -> None:
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0
    assert "Usage: " in shown.output
