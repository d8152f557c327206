"""The process: whose socket, what a restart costs its callers, kills at any point, a newer version's database."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from imagedist.config import AgentConfig
from imagedist.snapshotter.app import serving
from imagedist.snapshotter.check import problems
from imagedist.snapshotter.listening import bound
from imagedist.snapshotter.opening import Opening
from imagedist.snapshotter.relay import Relay
from tests.snapshotter.client import Client, failing
from tests.support.activation import activated
from tests.support.counts import count

pytestmark = pytest.mark.root

_CONFIG = """\
[agent]
site_proxies = ["http://127.0.0.1:1"]
socket = "{base}/agent.sock"
[storage]
root = "{base}/storage"
used_by = []
[snapshotter]
socket = "{base}/snapshotter.sock"
"""


class Process:
    """``imagedist snapshotter`` as its own process."""

    def __init__(self, base: Path, listener: socket.socket | None = None) -> None:
        config = base / "agent.toml"
        config.write_text(_CONFIG.format(base=base))
        command = ["snapshotter", "--config", str(config)]
        argv = [sys.executable, "-m", "imagedist", *command]
        passed: tuple[int, ...] = ()
        if listener is not None:
            argv = activated(listener.fileno(), command)
            passed = (listener.fileno(),)
        read, write = os.pipe()
        self._running = subprocess.Popen(argv, pass_fds=passed, stderr=write)
        os.close(write)
        self.log = os.fdopen(read)

    def wait_until_ready(self) -> None:
        for line in self.log:
            if re.match(r"\S+Z INFO imagedist\.snapshotter\.app: snapshotter .*, store ", line):
                return
        raise AssertionError("it ended before it was ready")

    def kill(self) -> None:
        self._running.kill()
        self._running.wait()
        self.log.close()

    def end(self) -> int:
        self._running.send_signal(signal.SIGTERM)
        code = self._running.wait(30)
        self.log.close()
        return code


@pytest.fixture
def listener(base: Path) -> Iterator[socket.socket]:
    """What systemd holds."""
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(base / "snapshotter.sock"))
        held.listen(128)
        yield held


def directories(base: Path) -> set[str]:
    return {path.name for path in (base / "storage/imagedist/snapshots").iterdir() if path.is_dir()}


def test_its_socket_is_roots_alone_and_gone_after_a_clean_end(base: Path) -> None:
    process = Process(base)
    process.wait_until_ready()
    mode = (base / "snapshotter.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert process.end() == 0
    assert not (base / "snapshotter.sock").exists()


def test_what_a_kill_leaves_of_the_socket_is_replaced_and_snapshots_are_there_again(base: Path) -> None:
    first = Process(base)
    first.wait_until_ready()
    client = Client(base / "snapshotter.sock")
    before = client.prepare("key")
    client.channel.close()
    first.kill()

    second = Process(base)
    second.wait_until_ready()
    client = Client(base / "snapshotter.sock")
    assert list(client.mounts("key")) == list(before)
    client.channel.close()
    second.end()


def test_a_second_one_is_refused_in_one_line(base: Path) -> None:
    first = Process(base)
    first.wait_until_ready()
    second = Process(base)
    assert second.log.read().startswith("imagedist: another snapshotter listens on ")
    second.kill()
    first.end()


def test_a_configuration_without_its_table_ends_in_one_line(base: Path) -> None:
    config = base / "agent.toml"
    config.write_text('[agent]\nsite_proxies = ["http://127.0.0.1:1"]\n')
    argv = [sys.executable, "-m", "imagedist", "snapshotter", "--config", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no table [snapshotter]" in done.stderr


@pytest.mark.parametrize("end", ["end", "kill"])
def test_calls_made_while_it_restarts_wait_in_the_activated_socket(
    base: Path, listener: socket.socket, end: str
) -> None:
    first = Process(base, listener)
    first.wait_until_ready()
    client = Client(base / "snapshotter.sock")
    client.prepare("key")
    client.channel.close()
    getattr(first, end)()
    client = Client(base / "snapshotter.sock")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.stat, "key")
        second = Process(base, listener)
        assert waiting.result(30).name == "key"
    client.channel.close()
    second.end()


def test_what_was_answered_before_a_clean_restart_holds_and_callers_go_on(base: Path, listener: socket.socket) -> None:
    first = Process(base, listener)
    first.wait_until_ready()
    client, done, stop, moved = Client(base / "snapshotter.sock"), list[str](), threading.Event(), threading.Event()

    def work() -> None:
        for number in itertools.count():
            with contextlib.suppress(grpc.RpcError):  # caught between the two
                client.view(f"v{number}")
                done.append(f"v{number}")
                moved.set()
            if stop.is_set():
                return

    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work)
        moved.wait()
        assert first.end() == 0
        moved.clear()
        second = Process(base, listener)
        moved.wait()
        stop.set()
        working.result()
    assert set(done) <= client.names()
    client.channel.close()
    second.end()


@pytest.mark.prove
@pytest.mark.timeout(count(120, 1800))
def test_a_kill_at_any_point_loses_nothing_and_leaves_nothing(base: Path, listener: socket.socket) -> None:
    chance = random.Random(7)
    for _ in range(count(4, 100)):
        process = Process(base, listener)
        client = Client(base / "snapshotter.sock")
        known: dict[str, str] = {one.name: one.parent for one in client.list()}
        doubtful: set[str] = set()

        def work(client: Client = client, known: dict[str, str] = known, doubtful: set[str] = doubtful) -> None:
            number = len(known)
            while True:
                number += 1
                key, name = f"key-{number}-{os.urandom(4).hex()}", f"name-{number}-{os.urandom(4).hex()}"
                parent = next((one for one in known if one.startswith("name-")), "")
                doubtful.update((key, name))
                client.prepare(key, parent)
                client.commit(name, key)
                known[name] = parent
                doubtful.clear()
                leaf = next((one for one in known if one not in known.values()), None)
                if leaf is not None and number % 2:
                    doubtful.add(leaf)
                    client.remove(leaf)
                    del known[leaf]
                    doubtful.clear()

        with ThreadPoolExecutor(1) as threads:
            working = threads.submit(work)
            try:
                working.result(chance.uniform(0.02, 0.3))
            except TimeoutError:
                pass
            process.kill()
            assert isinstance(working.exception(30), grpc.RpcError)
        client.channel.close()

        process = Process(base, listener)
        client = Client(base / "snapshotter.sock")
        found = {one.name for one in client.list()}
        assert known.keys() - doubtful <= found <= known.keys() | doubtful
        assert len(directories(base)) == len(found)
        assert problems(base / "storage") == (len(found), [])
        client.channel.close()
        process.end()


@pytest.mark.prove
@pytest.mark.timeout(count(120, 900))
def test_a_thousand_cycles_leave_nothing(base: Path, client: Client) -> None:
    client.prepare("base-key")
    client.commit("base", "base-key")
    for number in range(count(100, 1000)):
        client.prepare(f"key-{number}", "base")
        client.commit(f"name-{number}", f"key-{number}")
        client.remove(f"name-{number}")
    assert client.names() == {"base"}
    assert len(directories(base)) == 1
    assert len(list((base / "storage/imagedist/lent").iterdir())) == 1


def test_a_full_disk_is_told_and_no_harm_when_it_has_space_again(base: Path, config: AgentConfig) -> None:
    root = config.storage.root
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root], check=True)
    try:
        opening = Opening(lambda: config)
        with bound(base / "snapshotter.sock") as listener, serving(opening.node, Relay(listener).start()):
            client = Client(base / "snapshotter.sock")
            client.prepare("before")
            with contextlib.suppress(OSError), (root / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(4096))
            with failing(grpc.StatusCode.INTERNAL):
                for number in range(1000):
                    client.prepare(f"key-{number}")
            (root / "filler").unlink()
            client.prepare("after")
            assert {"before", "after"} <= client.names()
            assert len(directories(base)) == len(client.names())
            client.channel.close()
        opening.close()
    finally:
        subprocess.run(["umount", root], check=True)


def test_cleanup_removes_what_belongs_to_no_snapshot(base: Path, client: Client) -> None:
    client.prepare("key")
    for name in ("new-7", "gone-8", "99"):
        (base / "storage/imagedist/snapshots" / name / "fs/dir").mkdir(parents=True)
    (base / "storage/imagedist/lent/99").symlink_to("../snapshots/99/fs")
    client.cleanup()
    assert directories(base) == {"1"}
    assert list((base / "storage/imagedist/lent").iterdir()) == []


def test_a_newer_versions_database_makes_the_service_unavailable_until_it_is_gone(
    base: Path, client: Client, config: AgentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    path = base / "storage/imagedist/snapshots/snapshots.db"
    path.parent.mkdir(parents=True)
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with failing(grpc.StatusCode.UNAVAILABLE):
        client.prepare("key")
    assert "is of version 99" in caplog.text
    path.unlink()
    client.prepare("key")


def test_a_lost_database_costs_no_container_its_files(
    base: Path, client: Client, config: AgentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = base / "storage/imagedist/snapshots/7"
    (snapshot / "fs/precious").mkdir(parents=True)
    with failing(grpc.StatusCode.UNAVAILABLE):
        client.prepare("key")
    assert "is gone or empty, and snapshots lie beside it" in caplog.text
    assert (snapshot / "fs/precious").exists()
    shutil.rmtree(snapshot)
    client.prepare("key")


@pytest.mark.parametrize(
    "key", ["../../../../etc", "with\nnewline", "with\0nul", "é€😀", "k" * 10_000, "'; DROP TABLE snapshots; --", " "]
)
def test_odd_keys_are_only_names(base: Path, client: Client, key: str) -> None:
    client.prepare(key, labels={"l\n": f"v{key[:100]}"})
    client.commit(f"{key}!", key, {"l": key[:1000]})
    assert client.stat(f"{key}!").labels["l"] == key[:1000]
    assert client.view("shown", f"{key}!")[0].source == str(base / "storage/imagedist/snapshots/1/fs")
    client.remove("shown")
    client.remove(f"{key}!")
    assert client.list() == []


def test_names_and_labels_have_limits(client: Client) -> None:
    for refused in (
        lambda: client.prepare(""),
        lambda: client.prepare("k" * 40_000),
        lambda: client.prepare("key", labels={"l": "v" * 5000}),
        lambda: client.prepare("key", labels={f"l{number}": "v" for number in range(2000)}),
    ):
        with failing(grpc.StatusCode.INVALID_ARGUMENT):
            refused()
    assert client.list() == []


def test_the_doctors_check_names_what_is_lost(base: Path, client: Client) -> None:
    client.prepare("key")
    assert problems(base / "storage") == (1, [])
    (base / "storage/imagedist/snapshots/1").rename(base / "lost")
    count_, found = problems(base / "storage")
    assert (count_, len(found)) == (1, 1)
    assert "snapshot key: its directory 1 is gone" in found[0]


def test_a_database_is_checked_without_a_snapshotter(base: Path) -> None:
    process = Process(base)
    process.wait_until_ready()
    process.end()
    assert problems(base / "storage") == (0, [])
