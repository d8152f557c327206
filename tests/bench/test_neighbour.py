"""The neighbour benchmark reads right what wrk says."""

from __future__ import annotations

import pytest

from bench.neighbour import latencies
from imagedist.errors import ImagedistError

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
