"""The benchmark of the swarm: its clients, its arithmetic, what it refuses, and a run of two nodes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench.burst import Burst
from bench.cli import app
from bench.network import Network, Node
from bench.pulling import Pulled, pull
from bench.report import show
from bench.result import Contestant, ImageFacts, Machine, Result, forget
from bench.statistics import percentile
from bench.swarm import Scale, run
from bench.swarm_network import Configuration
from bench.swarm_rows import Bursts, row_of, verdicts_of
from imagedist.errors import ImagedistError, InputError

_PORT = 8000


@pytest.mark.parametrize(("percent", "value"), [(1, 1), (50, 5), (90, 9), (99, 10), (100, 10)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, value: float) -> None:
    assert percentile([10, 1, 9, 2, 8, 3, 7, 4, 6, 5], percent) == value


def _burst(*seconds: float, idle_seconds: float = 1.0) -> Burst:
    received = Counter({"peer": 150, "seeder": 50})
    pulled = [Pulled(0.5, one) for one in seconds]
    return Burst(pulled, 240, 105, 2.0, 1.0, idle_seconds, received)


def test_times_of_all_rounds_are_pooled_and_bytes_are_told_per_image() -> None:
    row = row_of(Bursts(2, [_burst(2.0, 2.2), _burst(2.4, 3.0)]), ideal_seconds=2.0, image_bytes=100)
    assert row.name == "2 nodes"
    assert row.seconds == (2.2, 3.0), "a run lasts until its last node is done"
    summary = row.summary
    assert [summary[title] for title in ("p50", "p90", "max")] == [1.1, 1.5, 1.5]
    assert (summary["site sent"], summary["upstream sent"]) == (2.4, 1.05)
    assert (summary["% peer"], summary["% seeder"], summary["% proxy"]) == (75, 25, 0)
    assert summary["CPU-s a node"] == 1.0, "two nodes, two rounds of two CPU-seconds"


def test_a_run_without_idle_cpus_says_so() -> None:
    rows = [Bursts(1, [_burst(2.0)]), Bursts(4, [_burst(3.0, 3.0, 3.0, 3.0, idle_seconds=0.1)])]
    said = {verdict.what: verdict.value for verdict in verdicts_of(rows, ideal_seconds=2.0, image_bytes=100)}
    assert said["time for all: 4 nodes ÷ 1 node"] == 1.5
    assert [what for what in said if what.startswith("CPU-bound: ")] == [
        "CPU-bound: 4 nodes left of the CPUs' time idle; the times are this machine's, not the swarm's"
    ]


def test_what_all_runs_say_is_shown_in_a_table_of_its_own() -> None:
    result = Result(
        benchmark="swarm",
        started="2026-01-01T00:00:00+00:00",
        machine=Machine(processor="p", cpus=2, memory_bytes=1, kernel="6", store_file_system="tmpfs", cgroup_limits={}),
        versions={},
        image=ImageFacts(name="random bytes", manifest_digest="", layers=2, compressed_bytes=1),
        settings={"registry": "links of 8 Mbit/s"},
        contestants=(Contestant(name="plain"), Contestant(name="2 nodes", summary={"p50": 1.1, "max": 1.25})),
    )
    console = Console(width=200, record=True)
    show(result, console)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["P50", "MAX"] in lines
    assert ["2", "nodes", "1.10", "1.25"] in lines


@pytest.mark.parametrize("nodes", ["", "0", "1,two", "-1"])
def test_numbers_of_nodes_that_are_none_are_refused(nodes: str) -> None:
    told = CliRunner().invoke(app, ["swarm", "--nodes", nodes])
    assert told.exit_code == InputError.exit_code
    assert "expected numbers such as 1,2,4,8" in told.output


@contextmanager
def _serving(node: Node) -> Iterator[str]:
    """``/whole`` is whole, ``/cut`` breaks off, ``/never`` is never sent, ``/late`` only when it is asked for again."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path == "/late" and asked.count("/late") == 1:
                self.send_error(504)
                return
            self.send_response(200)
            self.send_header("Content-Length", "300000")
            self.end_headers()
            if self.path == "/never":
                over.wait()
            self.wfile.write(bytes(300_000 if self.path in ("/whole", "/late") else 100))

        def log_message(self, format: str, *args: object) -> None:
            pass

    over, asked = threading.Event(), list[str]()
    with node.namespace.entered():
        server = ThreadingHTTPServer((node.address, _PORT), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{node.address}:{_PORT}"
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.network
def test_clients_of_many_nodes_read_over_their_own_links_and_name_the_node_that_failed() -> None:
    with Network() as network:
        site = network.site("bench")
        server, nodes = site.node("server"), [site.node("n0"), site.node("n1")]
        with _serving(server) as url:
            before = [node.down.bytes for node in nodes]
            pulled = pull(nodes, [f"{url}/whole"] * 2, stall_seconds=10)
            assert all(0 < one.first_byte_seconds <= one.seconds for one in pulled)
            for node, bytes_before in zip(nodes, before, strict=True):
                assert node.down.bytes - bytes_before > 600_000
            with pytest.raises(ImagedistError, match="n1 did not get a whole blob"):
                pull(nodes[1:], [f"{url}/cut"], stall_seconds=10)
            with pytest.raises(ImagedistError, match="nothing came for 0 s: n0, n1 wait"):
                pull(nodes, [f"{url}/never"], stall_seconds=0.1)


@pytest.mark.network
def test_a_client_that_may_ask_again_does_when_it_is_refused_and_its_time_goes_on() -> None:
    with Network() as network:
        site = network.site("bench")
        server, node = site.node("server"), site.node("n0")
        with _serving(server) as url:
            (one,) = pull([node], [f"{url}/late", f"{url}/whole"], stall_seconds=10, asks=2)
            assert (one.asked_again, one.seconds > 0) == (1, True)
            with pytest.raises(ImagedistError, match="n0 did not get a whole blob: the server broke off"):
                pull([node], [f"{url}/cut"], stall_seconds=10, asks=2)
        with _serving(server) as url, pytest.raises(ImagedistError, match=r"answered HTTP/1\.0 504"):
            pull([node], [f"{url}/late"], stall_seconds=10)


@pytest.mark.network
def test_more_nodes_than_the_memory_holds_are_refused_before_anything_starts() -> None:
    with pytest.raises(InputError, match="measure fewer nodes or smaller images"):
        run(Scale((10_000,), 10_000_000_000, 8_000_000, 1), lambda line: None, forget)


@pytest.mark.network
@pytest.mark.e2e("docker-registry")
def test_two_nodes_get_a_new_image_and_upstream_sends_it_once() -> None:
    kept: list[Result] = []
    scale = Scale((1, 2), 4_000_000, 100_000_000, 1, Configuration(proxy="first_wave_nodes = 1"))
    result = run(scale, lambda line: None, kept.append)
    assert [len(each.contestants) for each in kept] == [2, 3], "every burst is kept, with the plain download"
    assert [row.name for row in result.contestants] == ["a plain download", "1 node", "2 nodes"]
    assert result.settings["proxy"] == "first_wave_nodes = 1"
    both = result.contestants[2].summary
    assert 1.0 <= both["upstream sent"] < 1.1
    assert sum(both[f"% {source}"] for source in ("peer", "seeder", "webseed", "proxy")) > 99
    assert result.contestants[2].runs[0].figures.keys() > {"node_0_seconds", "node_1_seconds", "site_bytes"}
