from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from imagedist.cli import app
from imagedist.errors import InputError, IntegrityError, NotFoundError
from imagedist.oci.digest import Digest
from imagedist.oci.layout import Layout
from imagedist.oci.manifest import (
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
)
from imagedist.oci.platform import Platform
from imagedist.progress import Event
from imagedist.repack.image import repack
from imagedist.repack.place import parse_place
from imagedist.repack.recipe import Recipe
from tests.support import layers, layouts
from tests.support.dead import DEAD
from tests.support.registry import FaultyRegistry

PGZIP, ZSTD = Recipe.of("pgzip", 1), Recipe.of("zstd")
BUILT = layers.image([[layers.file("a", b"a" * 300_000)], [layers.file("b")]], config={"config": {"Cmd": ["/b"]}})


@pytest.fixture
async def registry() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        registry.blobs.update(BUILT.blobs)
        registry.add_manifest("team/app", "1", BUILT.image.manifest_bytes)
        yield registry


async def run(source: str, target: str, recipe: Recipe = PGZIP, platform: Platform | None = None) -> list[Event]:
    events: list[Event] = []
    places = [parse_place(text, plain_http=True) for text in (source, target)]
    try:
        await repack(*places, recipe, platform, events.append)
    finally:
        for place in places:
            await place.close()
    return events


def named(registry: FaultyRegistry, name: str) -> str:
    return f"{registry.url.removeprefix('http://')}/{name}"


def manifest(layout: Path, name: str = "latest") -> dict[str, Any]:
    found = Layout(layout).find(name)
    document: dict[str, Any] = json.loads(Layout(layout).read(found.digest, 1 << 20))
    return document


async def test_registry_to_layout_keeps_config_and_files(registry: FaultyRegistry, tmp_path: Path) -> None:
    events = await run(named(registry, "team/app:1"), f"oci:{tmp_path / 'out'}:new")
    written = manifest(tmp_path / "out", "new")
    assert written["config"] == json.loads(BUILT.image.manifest_bytes)["config"]
    assert [layer["mediaType"] for layer in written["layers"]] == [f"{OCI_LAYER}+gzip"] * 2
    for entry in [written["config"], *written["layers"]]:
        assert len(Layout(tmp_path / "out").read(Digest.parse(entry["digest"]), 1 << 20)) == entry["size"]
    assert [event.event for event in (events[0], events[-1])] == ["resolved", "done"]
    assert events[-1].image == BUILT.image.id.hex


async def test_layout_to_registry_and_back_gives_the_same_image(registry: FaultyRegistry, tmp_path: Path) -> None:
    await run(named(registry, "team/app:1"), f"oci:{tmp_path / 'one'}")
    await run(f"oci:{tmp_path / 'one'}", named(registry, "team/app:2"))
    await run(named(registry, "team/app:2"), f"oci:{tmp_path / 'two'}")
    assert manifest(tmp_path / "one") == manifest(tmp_path / "two")
    assert json.loads(registry.manifests["team/app", "2"][1]) == manifest(tmp_path / "one")


async def test_repacking_again_pushes_nothing_new(registry: FaultyRegistry) -> None:
    await run(named(registry, "team/app:1"), named(registry, "team/app:2"))
    uploads = registry.requests["PUT upload"]
    assert uploads == 2
    await run(named(registry, "team/app:2"), named(registry, "team/app:3"))
    assert registry.requests["PUT upload"] == uploads
    assert registry.manifests["team/app", "2"] == registry.manifests["team/app", "3"]


async def test_docker_image_becomes_an_oci_image_with_the_same_id(registry: FaultyRegistry, tmp_path: Path) -> None:
    docker = json.loads(BUILT.image.manifest_bytes)
    docker["mediaType"] = DOCKER_MANIFEST
    docker["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    for layer in docker["layers"]:
        layer["mediaType"] = f"{DOCKER_LAYER}.gzip"
    registry.add_manifest("team/app", "docker", json.dumps(docker).encode(), DOCKER_MANIFEST)
    await run(named(registry, "team/app:docker"), f"oci:{tmp_path}", ZSTD)
    written = manifest(tmp_path)
    assert written["mediaType"] == OCI_MANIFEST
    assert written["config"] == docker["config"] | {"mediaType": OCI_CONFIG}
    assert [layer["mediaType"] for layer in written["layers"]] == [f"{OCI_LAYER}+zstd"] * 2


def add_index(registry: FaultyRegistry) -> dict[str, Any]:
    """Two platforms and an attestation of one of them."""
    other = layers.image([[layers.file("arm")]], config={"architecture": "arm64"})
    registry.blobs.update(other.blobs)
    entries = []
    for built, architecture in ((BUILT, "amd64"), (other, "arm64")):
        digest = registry.add_manifest("team/app", None, built.image.manifest_bytes)
        platform = {"os": "linux", "architecture": architecture}
        size = len(built.image.manifest_bytes)
        entries.append({"mediaType": OCI_MANIFEST, "digest": str(digest), "size": size, "platform": platform})
    attestation = registry.add_manifest("team/app", None, b'{"schemaVersion":2,"layers":[]}')
    annotations = {"vnd.docker.reference.type": "attestation-manifest"}
    entries.append({"mediaType": OCI_MANIFEST, "digest": str(attestation), "size": 31, "annotations": annotations})
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, "annotations": {"kept": "yes"}}
    registry.add_manifest("team/app", "all", json.dumps(index).encode(), OCI_INDEX)
    return index


async def test_every_platform_of_an_index_is_repacked_but_no_attestation(
    registry: FaultyRegistry, tmp_path: Path
) -> None:
    index = add_index(registry)
    await run(named(registry, "team/app:all"), f"oci:{tmp_path}")
    written = manifest(tmp_path)
    assert written["annotations"] == {"kept": "yes"}
    assert [entry["platform"] for entry in written["manifests"]] == [
        entry["platform"] for entry in index["manifests"][:2]
    ]
    await run(f"oci:{tmp_path}", named(registry, "team/app:again"))
    assert json.loads(registry.manifests["team/app", "again"][1]) == written


async def test_one_platform_is_a_plain_manifest(registry: FaultyRegistry, tmp_path: Path) -> None:
    add_index(registry)
    await run(named(registry, "team/app:all"), f"oci:{tmp_path}", platform=Platform.parse("linux/arm64"))
    assert manifest(tmp_path)["mediaType"] == OCI_MANIFEST
    with pytest.raises(NotFoundError, match="no manifest for linux/s390x"):
        await run(named(registry, "team/app:all"), f"oci:{tmp_path}", platform=Platform.parse("linux/s390x"))


async def test_annotations_about_the_old_bytes_go_and_others_stay(registry: FaultyRegistry, tmp_path: Path) -> None:
    document = json.loads(BUILT.image.manifest_bytes)
    document["layers"][0]["annotations"] = {"containerd.io/snapshot/stargz/toc.digest": "x", "kept": "yes"}
    document["layers"][1]["annotations"] = {"io.github.containers.zstd-chunked.manifest-checksum": "x"}
    registry.add_manifest("team/app", "1", json.dumps(document).encode())
    await run(named(registry, "team/app:1"), f"oci:{tmp_path}")
    assert [layer.get("annotations") for layer in manifest(tmp_path)["layers"]] == [{"kept": "yes"}, None]


async def test_nothing_is_written_when_one_layer_is_not_its_diff_id(registry: FaultyRegistry, tmp_path: Path) -> None:
    config = json.loads(BUILT.image.config_bytes)
    config["rootfs"]["diff_ids"][1] = str(Digest.of(b"other"))
    document = json.loads(BUILT.image.manifest_bytes)
    content = json.dumps(config).encode()
    document["config"] |= {"digest": str(registry.add_blob(content)), "size": len(content)}
    registry.add_manifest("team/app", "wrong", json.dumps(document).encode())
    with pytest.raises(IntegrityError, match="expected diff ID"):
        await run(named(registry, "team/app:wrong"), f"oci:{tmp_path}")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [".repacking/.lock"]
    with pytest.raises(IntegrityError, match="expected diff ID"):
        await run(named(registry, "team/app:wrong"), named(registry, "team/app:new"))
    assert not registry.requests["POST uploads"]


async def test_what_a_killed_repack_left_is_removed_by_the_next(registry: FaultyRegistry, tmp_path: Path) -> None:
    left = tmp_path / ".repacking" / DEAD
    left.mkdir(parents=True)
    (left / "layer").write_bytes(b"half")
    left.with_suffix(".lock").touch()
    await run(named(registry, "team/app:1"), f"oci:{tmp_path}")
    assert not left.exists()


async def test_what_a_killed_repack_into_a_registry_left_is_removed_by_the_next(
    registry: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    mine = tmp_path / f"imagedist-repack-{os.geteuid()}"
    (mine / DEAD).mkdir(parents=True)
    (mine / f"{DEAD}.lock").touch()
    await run(named(registry, "team/app:1"), named(registry, "team/app:2"))
    assert [path.name for path in mine.iterdir()] == [".lock"]


@pytest.mark.parametrize("text", ["oci:", "oci::1", "oci:dir:a b", "team/UPPER:1"])
def test_place_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="invalid"):
        parse_place(text)


def test_command_repacks_and_tells_machines(tmp_path: Path) -> None:
    layouts.write(BUILT, tmp_path / "one", "1")
    arguments = [f"oci:{tmp_path / 'one'}:1", f"oci:{tmp_path / 'two'}:2", "--compression", "zstd", "--level", "1"]
    told = invoke([*arguments, "--json"])
    last = Event.parse(told.splitlines()[-1])
    assert last is not None
    assert (last.event, last.manifest) == ("done", Layout(tmp_path / "two").find("2").digest)
    assert "as zstd" in invoke(arguments)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["oci:{}/none", "oci:{}/out"], 2, "is not an OCI image layout"),
        (["oci:{}/none", "oci:{}/out", "--level", "99"], 2, "bad level 99"),
        (["oci:{}/none", "oci:{}/out", "--block-size", "much"], 2, "bad size"),
        (["127.0.0.1:1/app:1", "oci:{}/out", "--plain-http"], 1, "cannot reach registry"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, arguments: list[str], exit_code: int, says: str) -> None:
    done = CliRunner().invoke(app, ["repack", *(text.format(tmp_path) for text in arguments)])
    assert done.exit_code == exit_code
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def invoke(arguments: list[str]) -> str:
    done = CliRunner().invoke(app, ["repack", *arguments])
    assert done.exit_code == 0, done.stderr
    return done.stdout
