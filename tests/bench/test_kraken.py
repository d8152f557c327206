"""Kraken beside imagedist: what a row says of it, and two nodes that get an image by the real one."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

import pytest
from typer.testing import CliRunner

from bench import images
from bench.account import ProcessAccount
from bench.burst import Burst
from bench.charts import charts_of
from bench.cli import app
from bench.directories import short_directory
from bench.headlines import headlines
from bench.kraken_network import kraken_network
from bench.network import Network, deployment
from bench.network.kraken import kraken
from bench.processes import run
from bench.pull import Mirror
from bench.pulling import Pulled
from bench.result import Contestant
from bench.swarm import Scale, kraken_series
from bench.swarm_rows import Bursts, against, row_of
from imagedist.errors import ImagedistError, InputError
from tests.bench.test_charts import nodes
from tests.bench.test_result import result

_IMAGE_BYTES = 9_000_000


def _bursts(series: str, *seconds: float) -> Bursts:
    pulled = [Pulled(0.5, one) for one in seconds]
    return Bursts(len(seconds), [Burst(pulled, 200, 100, 1.0, 1.0, 1.0)], series)


def test_a_row_of_kraken_says_whose_pieces_it_had_and_no_sources() -> None:
    row = row_of(_bursts(kraken_series("64KB"), 2.0, 3.0), ideal_seconds=2.0, image_bytes=100)
    assert (row.name, row.labels["series"]) == ("2 nodes, Kraken, pieces of 64KB", "Kraken, pieces of 64KB")
    assert (row.summary["p50"], row.summary["max"], row.summary["site sent"]) == (1.0, 1.5, 2.0)
    assert not [title for title in row.summary if title in ("% peer", "% seeder")]
    assert kraken_series("4MB") == "Kraken", "its own pieces"


def test_the_most_nodes_are_held_against_ours() -> None:
    ours = [_bursts("by imagedist", 1.0), _bursts("by imagedist", 2.0, 2.0)]
    theirs = [_bursts("Kraken", 1.0), _bursts("Kraken", 3.0, 5.0), _bursts("straight from the registry", 9.0, 9.0)]
    assert [(each.what, each.value) for each in against(ours, theirs)] == [
        ("2 nodes, Kraken: p50 ÷ imagedist's", 1.5),
        ("2 nodes, Kraken: max ÷ imagedist's", 2.5),
    ]


def test_a_machine_without_kraken_says_so_below_the_chart_and_in_no_headline() -> None:
    why = "kraken-agent not installed (deploy/peers.sh kraken)"
    part = result(nodes("by imagedist", 2), Contestant(name="Kraken", not_run=why), benchmark="swarm", comparisons=())
    (chart,) = charts_of([part])
    assert chart.notes == [f"not run: Kraken: {why}"]
    assert "Kraken" not in headlines([part])[0]


def test_memory_is_reckoned_with_every_image_that_kraken_keeps() -> None:
    without, beside = (Scale((8, 32), 24_000_000, 8_000_000, 3, kraken_pieces=pieces) for pieces in ((), ("4MB",)))
    assert beside.memory_bytes - without.memory_bytes == (3 * 40 - 3 * 32) * 24_000_000


@pytest.mark.parametrize("pieces", ["4", "4MB,64", "0KB", "4mb"])
def test_lengths_of_pieces_that_are_none_are_refused(pieces: str) -> None:
    told = CliRunner().invoke(app, ["swarm", "--kraken-pieces", pieces])
    assert told.exit_code == InputError.exit_code
    assert "expected lengths such as 4MB,64KB" in told.output


@pytest.mark.prove
@pytest.mark.peer("kraken")
@pytest.mark.network
@pytest.mark.e2e("docker-registry", "nginx-light", "redis-server")
def test_two_nodes_get_a_new_image_by_kraken_and_upstream_sends_it_once() -> None:
    with short_directory() as directory, kraken_network(directory, 2, 100_000_000, _IMAGE_BYTES, "64KB") as network:
        network.warm_up()
        burst, warm = network.burst(2), network.burst(2, is_warm=True)
    assert len(burst.pulled) == len(warm.pulled) == 2
    assert warm.upstream_bytes < _IMAGE_BYTES / 10
    assert 1.0 <= burst.upstream_bytes / _IMAGE_BYTES < 1.1
    assert 0.9 < burst.site_bytes / _IMAGE_BYTES < 2.5
    assert min(burst.cpu_seconds, burst.agent_bytes) > 0


@pytest.mark.prove
@pytest.mark.peer("kraken")
@pytest.mark.network
@pytest.mark.e2e("docker-registry", "nginx-light", "redis-server", "skopeo", "containerd")
def test_containerd_pulls_an_image_through_krakens_agent_and_no_oci_manifest() -> None:
    with short_directory() as directory, Network() as network, ExitStack() as stack:
        node = network.site("bench").node("all")
        upstream = stack.enter_context(deployment.registry(node, directory / "upstream"))
        stack.enter_context(kraken(node, [node], directory / "kraken", upstream))
        built = images.tiny(directory / "cache")
        flags = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{built.layout}"]
        node.run(["skopeo", *flags, "--format", "v2s2", f"docker://{upstream.address}/bench/docker:1"])
        upstream.add(built, "bench/oci:1")
        refused: AbstractContextManager[object] = pytest.raises(ImagedistError, match="not found")
        with node.namespace.entered():
            for name, said in (("docker", nullcontext()), ("oci", refused)):
                there = Mirror("kraken", deployment.MIRROR, f"{upstream.address}/bench/{name}:1")
                with there.ready(directory, ProcessAccount(), "") as ready, said:
                    assert ready.command is not None
                    assert "done" in run(ready.command(""))
