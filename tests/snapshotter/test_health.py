"""What a snapshotter tells over HTTP: that it lives, whether its snapshots can be had, what containerd asked."""

from __future__ import annotations

import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import grpc
import pytest

from imagedist.config import Address
from imagedist.errors import StorageError
from imagedist.snapshotter.health import answering
from imagedist.snapshotter.node import Node
from imagedist.snapshotter.opening import Opening
from tests.snapshotter.client import Client, failing
from tests.support import layers

LOOPBACK = Address("127.0.0.1", 0)
CHAIN = str(layers.image([[layers.file("a")]]).image.layers[0].chain_id)


def ask(address: Address | None, path: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Full(Opening):
    """As on a disk without room."""

    def node(self) -> Node:
        raise StorageError("no space left")


@pytest.fixture
def at(opening: Opening) -> Iterator[Address | None]:
    with answering(LOOPBACK, opening) as address:
        yield address


@pytest.mark.root
def test_it_tells_what_containerd_asked_and_which_layers_were_left_to_it(client: Client, at: Address) -> None:
    def value(text: str, name: str) -> float:
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    names = (
        'imagedist_snapshot_calls_total{method="prepare",status="ok"}',
        'imagedist_snapshot_calls_total{method="stat",status="not_found"}',
        'imagedist_snapshot_calls_total{method="list",status="ok"}',
        'imagedist_snapshot_layers_total{outcome="left"}',
    )
    _, before = ask(at, "/metrics")
    client.prepare("a container")
    client.prepare("a layer", labels={"containerd.io/snapshot.ref": CHAIN})
    with failing(grpc.StatusCode.NOT_FOUND):
        client.stat("nothing")
    client.list()
    status, after = ask(at, "/metrics")
    assert (status, [value(after, name) - value(before, name) for name in names]) == (200, [2, 1, 1, 1])


@pytest.mark.root
def test_it_lives_and_is_ready_while_its_snapshots_can_be_had(at: Address) -> None:
    assert ask(at, "/livez") == (200, "ok\n")
    assert ask(at, "/readyz") == (200, "ok\n")
    assert ask(at, "/else")[0] == 404
    with answering(LOOPBACK, Full(lambda: pytest.fail("not asked"))) as full:
        assert ask(full, "/readyz") == (503, "no space left\n")
        assert ask(full, "/livez")[0] == 200


def test_an_address_that_is_taken_is_told_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = Address("127.0.0.1", taken.getsockname()[1])
        with answering(at, Full(lambda: pytest.fail("not asked"))) as address:
            assert address is None
    (said,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said == f"no /metrics: cannot listen on {at}: Address already in use; choose another [snapshotter] listen"
