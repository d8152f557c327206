"""The node's caps: swarm and HTTP together, at any time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagedist.agent.limits import NodeLimits
from imagedist.agent.line import default_upload
from imagedist.agent.pressure import Pressure
from imagedist.agent.protocol import LimitsOrder
from imagedist.config import LimitsTable, QuietTable
from imagedist.distribution.changing_rate import ChangingRate
from imagedist.errors import ConfigError, InputError
from imagedist.oci.digest import Digest
from imagedist.swarm.session import TransferStatus

IDLE = TransferStatus(Digest.of(b"blob"), 100, 0, False, 1, 1, 0, 0, 0, {})


def table(**keys: object) -> LimitsTable:
    return LimitsTable.model_validate({"upload": "none", **keys})


class Load:
    """Files as in /proc/pressure."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._total_us = 0
        self.add(0)

    def add(self, stalled_seconds: float) -> None:
        self._total_us += int(stalled_seconds * 1e6)
        lines = f"some avg10=0.00 avg60=0.00 avg300=0.00 total={self._total_us}\nfull avg10=0.00 total=0\n"
        (self.directory / "cpu").write_text(lines)


class Node:
    """Stands for session and blobs: rates are what the test says."""

    def __init__(self, table: LimitsTable, pressure: Pressure | None = None) -> None:
        self.now = 0.0
        self.received_bytes = Counter({"proxy": 0})
        self.rates = IDLE
        self.limits: tuple[int | None, int | None] = (None, None)
        self.connections: int | None = None
        self.http = ChangingRate(table.download)
        session: Any = self
        self.caps = NodeLimits(
            table, session, self.http, lambda: self.received_bytes, lambda: self.now, QuietTable(), pressure
        )

    def transfers(self) -> list[Node]:
        return [self]

    def status(self) -> TransferStatus:
        return self.rates

    def set_limits(self, upload: int | None, download: int | None, connections: int | None = None) -> None:
        self.limits = (upload, download)
        self.connections = connections

    def second(self, *, by_http: int = 0, by_swarm: int = 0, in_a_lump: int = 0) -> None:
        self.now += 1
        self.received_bytes["proxy"] += by_http
        self.received_bytes["peer"] += in_a_lump
        self.rates = replace(self.rates, download_rate=by_swarm)
        self.caps.tick()


def test_swarm_and_http_share_the_download_cap() -> None:
    node = Node(table(download="1000"))
    node.second(by_swarm=1000)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, 1000), 500)
    node.second(by_swarm=1000, by_http=500)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, 500), 500)
    node.second(by_swarm=500, by_http=100)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, 880), 500)
    node.second(by_http=1000)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, 500), 1000)


def test_who_falls_a_little_behind_keeps_his_half() -> None:
    node = Node(table(download="1000"))
    node.second(by_swarm=400, by_http=450)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, 500), 500)


def test_a_swarm_that_begins_has_its_half_before_its_average_says_so() -> None:
    node = Node(table(download="1000"))
    node.second(by_http=1000, by_swarm=50, in_a_lump=500)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, 500), 500)


def test_without_a_cap_nothing_is_limited_and_rates_are_told_all_the_same() -> None:
    node = Node(table())
    node.rates = replace(IDLE, upload_rate=7)
    node.second(by_http=300, by_swarm=200)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, None), None)
    status = node.caps.status()
    assert (status.upload.now_bytes_per_second, status.download.now_bytes_per_second) == (7, 500)


def test_a_cap_that_is_taken_off_is_off_for_both() -> None:
    node = Node(table(download="1000", upload="50"))
    node.second(by_swarm=400, by_http=400)
    node.caps.change(LimitsOrder(download="none"))
    assert (node.limits, node.http.rate_bytes_per_second) == ((50, None), None)
    assert node.caps.status().download.file_bytes_per_second == 1000


def test_nobody_says_how_much_to_give_so_half_of_the_line_stays_with_the_nodes_own_work() -> None:
    node = Node(LimitsTable())
    assert node.limits == (default_upload(), None)
    assert default_upload() > 0
    status = node.caps.status().upload
    assert (status.bytes_per_second, status.source) == (default_upload(), "default")
    node.caps.change(LimitsOrder(upload="none"))
    node.caps.change(LimitsOrder(upload="auto"))
    assert (node.limits, node.caps.status().upload.source) == ((default_upload(), None), "command")


def test_quiet_mode_lowers_what_the_node_gives_and_nothing_else() -> None:
    node = Node(table(upload="50MB/s", download="9MB/s", connections=300))
    node.caps.change(LimitsOrder(quiet=True))
    assert (node.limits, node.connections) == ((1_000_000, 9_000_000), 50)
    node.caps.change(LimitsOrder(upload="500kB/s", connections=20))
    assert (node.limits, node.connections) == ((500_000, 9_000_000), 20)  # it never raises a cap
    node.caps.change(LimitsOrder(quiet=False, upload="2MB/s"))
    assert (node.limits, node.connections) == ((2_000_000, 9_000_000), 20)
    node.caps.change(LimitsOrder(reset=True))
    assert (node.limits, node.connections) == ((50_000_000, 9_000_000), 300)


def test_an_agent_that_starts_again_knows_of_no_command() -> None:
    """Limits set by command end with the agent: the file is the one place that lasts."""
    told = LimitsOrder(upload="1", connections=9, quiet=True)
    node = Node(table(upload="50MB/s"))
    node.caps.change(told)
    again = Node(table(upload="50MB/s"))
    assert (again.limits, again.connections, again.caps.is_quiet) == ((50_000_000, None), 400, False)
    assert Node(table(quiet=True)).caps.status().quiet is not None
    assert Node(table(quiet=True)).caps.is_quiet


def test_too_few_connections_are_refused_and_nothing_of_the_order_is_done() -> None:
    node = Node(table(upload="50MB/s"))
    with pytest.raises(InputError, match="expected 2 or more"):
        node.caps.change(LimitsOrder(upload="1MB/s", connections=1, quiet=True))
    assert (node.limits, node.connections) == ((50_000_000, None), 400)


def seconds(node: Node, load: Load, count: int, stalled: float, by_http: int = 0) -> None:
    for _ in range(count):
        load.add(stalled)
        node.second(by_http=by_http)


def test_a_machine_under_load_is_left_alone_and_for_a_minute_afterwards(tmp_path: Path) -> None:
    load = Load(tmp_path)
    node = Node(table(upload="50MB/s"), Pressure({"cpu": 60.0}, tmp_path))
    seconds(node, load, 25, stalled=0.7)
    assert not node.caps.is_quiet
    seconds(node, load, 10, stalled=0.7)
    status = node.caps.status().quiet
    assert node.limits == (1_000_000, None)
    assert status is not None
    assert (status.is_quiet, status.source) == (True, "pressure")
    seconds(node, load, 200, stalled=0.5)  # less than that, but not calm
    assert node.caps.is_quiet
    seconds(node, load, 50, stalled=0.1)
    assert node.caps.is_quiet
    seconds(node, load, 20, stalled=0.1)
    assert node.limits == (50_000_000, None)


def test_the_load_of_a_pull_of_ones_own_makes_nobody_quiet(tmp_path: Path) -> None:
    load = Load(tmp_path)
    node = Node(table(), Pressure({"cpu": 60.0}, tmp_path))
    seconds(node, load, 120, stalled=1.0, by_http=1000)
    assert not node.caps.is_quiet


def test_whoever_says_not_quiet_is_not_quiet_whatever_the_load(tmp_path: Path) -> None:
    load = Load(tmp_path)
    node = Node(table(), Pressure({"cpu": 60.0}, tmp_path))
    node.caps.change(LimitsOrder(quiet=False))
    seconds(node, load, 60, stalled=1.0)
    assert not node.caps.is_quiet
    node.caps.change(LimitsOrder(reset=True))
    assert node.caps.is_quiet


def test_a_threshold_that_the_kernel_cannot_serve_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="io_pressure needs a kernel with pressure stall information"):
        Pressure({"io": 50.0}, tmp_path)


def test_a_preheat_lowers_the_download_cap_and_never_raises_it() -> None:
    node = Node(table(download=1000))
    node.caps.lower_download(400)
    assert node.limits[1] == 400
    node.caps.lower_download(4000)
    assert node.limits[1] == 1000
    node.caps.lower_download(None)
    assert node.limits[1] == 1000
    free = Node(table())
    free.caps.lower_download(400)
    assert free.limits[1] == 400
    free.caps.lower_download(None)
    assert free.limits[1] is None


def test_pressure_that_cannot_be_read_for_a_while_stops_nothing_else(tmp_path: Path) -> None:
    load = Load(tmp_path)
    node = Node(table(download=1000), Pressure({"cpu": 60.0}, tmp_path))
    seconds(node, load, 5, stalled=0.0)
    (tmp_path / "cpu").rename(tmp_path / "away")
    node.second(by_http=0)
    for _ in range(20):
        node.second(by_http=1000)
    assert node.limits[1] is not None
    (tmp_path / "away").rename(tmp_path / "cpu")
    seconds(node, load, 60, stalled=0.7)
    assert node.caps.is_quiet
