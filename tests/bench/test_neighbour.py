"""The neighbour benchmark reads right what wrk says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import cpus
from bench.neighbour import latencies
from bench.weights import AGENT_WEIGHT, weighted
from imagedist.errors import ImagedistError

UNIT = Path(__file__).parents[2] / "deploy/systemd/imagedist-agent.service"

SAID = """\
Running 4s test @ http://10.1.0.3:80/page
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   110.15us    1.05ms  40.00ms   99.00%
  Latency Distribution
     50%   90.00us
     75%  101.00us
     90%    1.20ms
     99%    1.50s
  1600 requests in 4.00s, 15.50MB read
Requests/sec:    400.00
"""


def test_latencies_are_seconds_whatever_the_unit() -> None:
    assert latencies(SAID) == pytest.approx({"p50": 90e-6, "p75": 101e-6, "p90": 1.2e-3, "p99": 1.5})


@pytest.mark.parametrize("complaint", ["  Non-2xx or 3xx responses: 7\n", "  Socket errors: connect 0, read 3\n"])
def test_answers_that_are_not_good_are_no_measurement(complaint: str) -> None:
    with pytest.raises(ImagedistError, match="no good answers"):
        latencies(SAID + complaint)
    with pytest.raises(ImagedistError, match="no good answers"):
        latencies("")


def test_the_agent_has_the_weight_of_its_unit() -> None:
    assert f"CPUWeight={AGENT_WEIGHT}" in UNIT.read_text().splitlines()


def test_the_node_has_other_cpus_than_all_others_where_there_are_two_and_a_thread_gets_back_what_it_had() -> None:
    before = os.sched_getaffinity(0)
    node, others = cpus.halves()
    assert node | others == before
    assert node.isdisjoint(others) == (len(before) > 1)
    with cpus.on(node):
        assert os.sched_getaffinity(0) == node
    assert os.sched_getaffinity(0) == before


@pytest.mark.root
def test_a_process_with_a_weight_is_in_a_group_of_its_own_and_given_back() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        groups = Path(f"/proc/{process.pid}/cgroup")
        before = groups.read_text()
        with weighted(process.pid, AGENT_WEIGHT) as has_weight:
            assert has_weight == ("imagedist-bench-" in groups.read_text())
        assert groups.read_text() == before
        process.communicate(b"\n")
