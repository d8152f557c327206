"""Layers that containerd need not unpack: those of the node's store, and those its agent pulls when asked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from imagedist.agent.api import SocketApi
from imagedist.agent.app import listening
from imagedist.config import AgentConfig
from imagedist.engine import Engine
from imagedist.oci.digest import Digest
from imagedist.oci.image import Image
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference
from imagedist.overlay.store import OverlayStore
from imagedist.puller import Puller
from imagedist.snapshotter import remote
from imagedist.snapshotter.app import serving
from imagedist.snapshotter.listening import bound
from imagedist.snapshotter.node import Node
from imagedist.snapshotter.opening import Opening
from imagedist.snapshotter.relay import Relay
from imagedist.snapshotter.wire import snapshots_pb2 as wire
from tests.snapshotter.client import Client, exists, failing, mounted
from tests.support import layers
from tests.support.engine import BuiltSource, engine

pytestmark = pytest.mark.root

BUILT = layers.image(
    [
        [layers.directory("etc"), layers.file("etc/name", b"base"), layers.file("gone", b"x")],
        [layers.file("etc/name", b"middle"), layers.whiteout("gone")],
        [layers.file("app", b"app")],
    ]
)
IMAGE = BUILT.image
NAME = "registry.example/app:1"
PLATFORM = Platform.parse("linux/amd64")


def labels(image: Image, number: int, **other: str) -> dict[str, str]:
    """What containerd's CRI says of a layer."""
    layer = image.layers[number]
    return {
        remote.REF_LABEL: str(layer.chain_id),
        remote.IMAGE_LABEL: NAME,
        remote.MANIFEST_LABEL: str(image.manifest_digest),
        remote.LAYER_LABEL: str(layer.descriptor.digest),
        **other,
    }


def unpack(client: Client, image: Image, start: int = 0) -> list[bool]:
    """Goes through an image as containerd does. Returns for each layer whether containerd was spared it."""
    spared: list[bool] = []
    parent = str(image.layers[start - 1].chain_id) if start else ""
    for number in range(start, len(image.layers)):
        wanted = labels(image, number)
        chain_id = wanted[remote.REF_LABEL]
        key = f"extract-{number} {chain_id}"
        is_spared = exists(client.prepare, key, parent, wanted)
        if is_spared:
            found = client.list(f'labels."containerd.io/snapshot.ref"=={chain_id},parent=="{parent}"')
            assert [(one.name, one.kind) for one in found] == [(chain_id, wire.COMMITTED)]
        else:
            client.commit(chain_id, key, wanted)
        spared.append(is_spared)
        parent = chain_id
    return spared


def forget(client: Client, image: Image) -> None:
    """containerd's garbage collection after the image was removed."""
    for layer in reversed(image.layers):
        client.remove(str(layer.chain_id))
    client.cleanup()


def pulled_by_agent(client: Client, node: Node) -> None:
    """Unpacks the image with the agent's help, to the end of its pull: the image's record comes after its layers."""
    pull = node.pulls.join(Reference.parse(NAME).at(IMAGE.manifest_digest))
    assert pull is not None
    assert unpack(client, IMAGE) == [True, True, True]
    assert not pull.wait_for(lambda: False, None, lambda: True)


@asynccontextmanager
async def agent(made: Engine, config: AgentConfig, source: BuiltSource) -> AsyncIterator[None]:
    """The agent's socket over a real puller; its bytes come from ``source``."""
    blobs: Any = type("Blobs", (), {"received_bytes": {}})()
    nobody: Any = None
    puller = Puller(source, made.store, made.ramdisk, made.workers)
    api = SocketApi(config, "127.0.0.1:5050", nobody, nobody, blobs, nobody, puller, nobody)
    async with listening(api.create_app(), config.agent.socket):
        yield
    puller.close()


async def pull(made: Engine, built: layers.BuiltImage, name: str = NAME) -> None:
    puller = Puller(BuiltSource(built), made.store, made.ramdisk, made.workers)
    await puller.pull(Reference.parse(name), PLATFORM)
    puller.close()


def layer_ids(store: OverlayStore) -> set[str]:
    return {path.name for path in (store.root / "overlay").iterdir() if path.name != "l"}


async def test_what_the_store_has_is_not_unpacked_again(base: Path, client: Client) -> None:
    with engine(base) as made:
        await pull(made, BUILT)

        assert await asyncio.to_thread(unpack, client, IMAGE) == [True, True, True]

        top = str(IMAGE.layers[-1].chain_id)
        with mounted(client.prepare("container", top), base / "root") as root:
            assert (root / "etc/name").read_text() == "middle"
            assert (root / "app").read_text() == "app"
            assert not (root / "gone").exists()
            (root / "app").write_text("changed")
        client.commit("image-upon-it", "container")
        with mounted(client.view("shown", "image-upon-it"), base / "root") as root:
            assert (root / "app").read_text() == "changed"
        assert client.usage(top).inodes == 2


async def test_a_base_in_the_store_spares_its_layers_only(base: Path, client: Client) -> None:
    app = layers.image([[layers.directory("etc"), layers.file("etc/name", b"base"), layers.file("gone", b"x")], []])
    with engine(base) as made:
        await pull(made, BUILT)
    assert await asyncio.to_thread(unpack, client, app.image) == [True, False]


async def test_what_containerd_uses_is_never_removed_and_goes_when_it_lets_go(base: Path, client: Client) -> None:
    with engine(base) as made:
        await pull(made, BUILT)
        await asyncio.to_thread(unpack, client, IMAGE)
        unpacked = layer_ids(made.store)

        made.store.remove(NAME)
        assert [one.kind for one in made.store.gc(quota_bytes=0)] == []

        assert layer_ids(made.store) == unpacked
        client.prepare("container", str(IMAGE.layers[-1].chain_id))
        with failing(grpc.StatusCode.FAILED_PRECONDITION):
            client.remove(str(IMAGE.layers[-1].chain_id))
        client.remove("container")
        await asyncio.to_thread(forget, client, IMAGE)
        assert layer_ids(made.store) == set()


async def test_an_image_of_the_user_stays_when_containerd_lets_go(base: Path, client: Client) -> None:
    with engine(base) as made:
        await pull(made, BUILT)
        await asyncio.to_thread(unpack, client, IMAGE)
        await asyncio.to_thread(forget, client, IMAGE)
        assert [image.names for image in made.store.images()] == [(NAME,)]
        assert len(layer_ids(made.store)) == 3


async def test_the_agent_pulls_what_the_store_has_not(base: Path, client: Client, config: AgentConfig) -> None:
    source = BuiltSource(BUILT)
    with engine(base) as made:
        async with agent(made, config, source):
            assert await asyncio.to_thread(unpack, client, IMAGE) == [True, True, True]
        assert len(source.asked) == 3


async def test_many_who_ask_at_once_cause_one_pull(base: Path, client: Client, config: AgentConfig) -> None:
    source = BuiltSource(BUILT)

    def ask(number: int) -> None:
        with failing(grpc.StatusCode.ALREADY_EXISTS):
            client.prepare(f"key-{number}", "", labels(IMAGE, 0))

    with engine(base) as made:
        async with agent(made, config, source):
            with ThreadPoolExecutor(8) as threads:  # of their own: the puller needs the loop's
                loop = asyncio.get_running_loop()
                await asyncio.gather(*(loop.run_in_executor(threads, ask, number) for number in range(8)))
            assert await asyncio.to_thread(unpack, client, IMAGE, 1) == [True, True]
    assert len(source.asked) == 3


async def test_an_image_pulled_for_containerd_alone_goes_with_its_snapshots(
    base: Path, client: Client, config: AgentConfig, opening: Opening
) -> None:
    with engine(base) as made:
        async with agent(made, config, BuiltSource(BUILT)):
            await asyncio.to_thread(pulled_by_agent, client, opening.node())

        await asyncio.to_thread(forget, client, IMAGE)

        assert made.store.images() == []
        assert layer_ids(made.store) == set()


async def test_an_image_that_somebody_pulled_since_stays(
    base: Path, client: Client, config: AgentConfig, opening: Opening
) -> None:
    with engine(base) as made:
        async with agent(made, config, BuiltSource(BUILT)):
            await asyncio.to_thread(pulled_by_agent, client, opening.node())
        await pull(made, BUILT)

        await asyncio.to_thread(forget, client, IMAGE)

        assert NAME in made.store.images()[0].names


@pytest.mark.parametrize("fault", ["wrong", "cut"])
async def test_a_layer_the_agent_cannot_get_is_left_to_containerd(
    base: Path, client: Client, config: AgentConfig, fault: str
) -> None:
    source = BuiltSource(BUILT, **{fault: IMAGE.layers[1].descriptor.digest})
    with engine(base) as made:
        async with agent(made, config, source):
            spared = await asyncio.to_thread(unpack, client, IMAGE)
    assert spared[1:] == [False, False]


def test_without_an_agent_containerd_unpacks(client: Client) -> None:
    assert unpack(client, IMAGE) == [False, False, False]


def test_an_agent_that_says_nothing_is_waited_for_with_patience_only(base: Path) -> None:
    config = AgentConfig.model_validate(
        {
            "agent": {"site_proxies": ["http://127.0.0.1:1"], "socket": base / "agent.sock"},
            "storage": {"root": base / "storage", "used_by": [], "durability": "none"},
            "snapshotter": {"socket": base / "snapshotter.sock", "patience": "100ms"},
        }
    )
    assert config.snapshotter is not None
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(config.agent.socket))
        silent.listen()
        opening = Opening(lambda: config)
        with bound(config.snapshotter.socket) as listener, serving(opening.node, Relay(listener).start()):
            client = Client(config.snapshotter.socket)
            assert unpack(client, IMAGE) == [False, False, False]
            client.channel.close()
        opening.close()


LIES: Mapping[str, dict[str, str]] = {
    "a chain that is another layer's": {remote.REF_LABEL: str(IMAGE.layers[2].chain_id)},
    "a chain that nobody has": {remote.REF_LABEL: str(Digest.of(b"nothing"))},
    "a chain that is no digest": {remote.REF_LABEL: "../../../etc"},
    "an image that is no reference": {remote.IMAGE_LABEL: "NOT A NAME\n"},
    "a manifest that is no digest": {remote.MANIFEST_LABEL: "sha256:short"},
    "a layer that the image has not": {remote.LAYER_LABEL: str(Digest.of(b"nothing"))},
}


@pytest.mark.parametrize("lie", LIES)
async def test_labels_that_lie_lead_to_an_ordinary_snapshot(
    base: Path, client: Client, config: AgentConfig, lie: str
) -> None:
    with engine(base) as made:
        async with agent(made, config, BuiltSource(BUILT)):
            told = labels(IMAGE, 0, **{remote.REF_LABEL: str(Digest.of(b"unknown"))}) | LIES[lie]
            mounts = await asyncio.to_thread(client.prepare, "key", "", told)
    assert mounts[0].type == "bind"
    assert client.names() == {"key"}


async def test_a_layer_is_not_put_upon_another_parent(base: Path, client: Client) -> None:
    with engine(base) as made:
        await pull(made, BUILT)
    client.prepare("own-key")
    client.commit("own", "own-key", labels(IMAGE, 0))
    assert client.prepare("key", "own", labels(IMAGE, 1))[0].type == "overlay"
    assert client.prepare("other", "", labels(IMAGE, 1))[0].type == "bind"
    with failing(grpc.StatusCode.NOT_FOUND):
        client.prepare("more", "nowhere", labels(IMAGE, 1))


async def test_a_second_namespace_shares_the_snapshots_unless_their_labels_were_taken_off(
    base: Path, client: Client
) -> None:
    with engine(base) as made:
        await pull(made, BUILT)
    assert await asyncio.to_thread(unpack, client, IMAGE) == [True, True, True]
    assert await asyncio.to_thread(unpack, client, IMAGE) == [True, True, True]
    client.update(wire.Info(name=str(IMAGE.layers[2].chain_id)))
    assert not exists(client.prepare, "key", str(IMAGE.layers[1].chain_id), labels(IMAGE, 2))
