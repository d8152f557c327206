"""The node's caps: swarm and HTTP together, at any time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from imagedist.agent.limits import NodeLimits
from imagedist.agent.protocol import LimitsOrder
from imagedist.config import LimitsTable
from imagedist.distribution.changing_rate import ChangingRate
from imagedist.oci.digest import Digest
from imagedist.swarm.session import TransferStatus

IDLE = TransferStatus(Digest.of(b"blob"), 100, 0, False, 1, 1, 0, 0, 0, {})


class Node:
    """Stands for session and blobs: rates are what the test says."""

    def __init__(self, table: LimitsTable) -> None:
        self.now = 0.0
        self.received_bytes = Counter({"proxy": 0})
        self.rates = IDLE
        self.limits: tuple[int | None, int | None] = (table.upload, table.download)
        self.http = ChangingRate(table.download)
        session: object = self
        self.caps = NodeLimits(table, session, self.http, lambda: self.received_bytes, lambda: self.now)  # type: ignore[arg-type]

    def transfers(self) -> list[Node]:
        return [self]

    def status(self) -> TransferStatus:
        return self.rates

    def set_limits(self, upload: int | None, download: int | None) -> None:
        self.limits = (upload, download)

    def second(self, *, by_http: int = 0, by_swarm: int = 0, in_a_lump: int = 0) -> None:
        self.now += 1
        self.received_bytes["proxy"] += by_http
        self.received_bytes["peer"] += in_a_lump
        self.rates = replace(self.rates, download_rate=by_swarm)
        self.caps.tick()


def test_swarm_and_http_share_the_download_cap() -> None:
    node = Node(LimitsTable.model_validate({"download": "1000"}))
    node.second(by_swarm=1000)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, 1000), 500)
    node.second(by_swarm=1000, by_http=500)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, 500), 500)
    node.second(by_swarm=500, by_http=100)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, 880), 500)
    node.second(by_http=1000)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, 500), 1000)


def test_who_falls_a_little_behind_keeps_his_half() -> None:
    node = Node(LimitsTable.model_validate({"download": "1000"}))
    node.second(by_swarm=400, by_http=450)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, 500), 500)


def test_a_swarm_that_begins_has_its_half_before_its_average_says_so() -> None:
    node = Node(LimitsTable.model_validate({"download": "1000"}))
    node.second(by_http=1000, by_swarm=50, in_a_lump=500)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, 500), 500)


def test_without_a_cap_nothing_is_limited_and_rates_are_told_all_the_same() -> None:
    node = Node(LimitsTable())
    node.rates = replace(IDLE, upload_rate=7)
    node.second(by_http=300, by_swarm=200)
    assert (node.limits, node.http.rate_bytes_per_second) == ((None, None), None)
    status = node.caps.status()
    assert (status.upload.now_bytes_per_second, status.download.now_bytes_per_second) == (7, 500)


def test_a_cap_that_is_taken_off_is_off_for_both() -> None:
    node = Node(LimitsTable.model_validate({"download": "1000", "upload": "50"}))
    node.second(by_swarm=400, by_http=400)
    node.caps.change(LimitsOrder(download="none"))
    assert (node.limits, node.http.rate_bytes_per_second) == ((50, None), None)
    assert node.caps.status().download.file_bytes_per_second == 1000
