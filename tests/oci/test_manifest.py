"""Indexes, manifests, configs: what is read from them and what is refused."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from imagedist.errors import InputError, NotFoundError, UnacceptableError
from imagedist.oci import image
from imagedist.oci import manifest as oci
from imagedist.oci.digest import Digest
from imagedist.oci.fields import Fields
from imagedist.oci.platform import Platform

CONFIG = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [f"sha256:{'1' * 64}"]}}).encode()
DIGEST = f"sha256:{'a' * 64}"


def described(media_type: str, **rest: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 3, **rest}


def manifest(layer_type: str = oci.OCI_LAYER + "+gzip", layers: int = 1) -> bytes:
    config = described(oci.OCI_CONFIG, digest=str(Digest.of(CONFIG)))
    return json.dumps({"schemaVersion": 2, "config": config, "layers": [described(layer_type)] * layers}).encode()


def resolved(content: bytes) -> oci.Image:
    document = oci.parse_document(oci.OCI_MANIFEST, content, "reg.io/a:1")
    assert isinstance(document, oci.Manifest)
    return oci.resolve("reg.io/a:1", document, content, Digest.of(content), CONFIG)


def test_an_image_knows_its_id_layers_and_size() -> None:
    image = resolved(manifest())
    assert image.id == Digest.of(CONFIG)
    assert image.layers[0].diff_id.hex == "1" * 64
    assert image.size_bytes == 3


def test_a_manifest_without_a_media_type_is_recognised() -> None:
    assert isinstance(oci.parse_document("", manifest(), "a"), oci.Manifest)
    assert isinstance(oci.parse_document("application/json", b'{"schemaVersion":2,"manifests":[]}', "a"), oci.Index)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"schemaVersion":1}', "schema 1"),
        (b"not json", "malformed manifest"),
        (b"\xff", "malformed manifest"),
        (b"[" * 100_000, "malformed manifest"),
        (b"[]", "expected an object"),
        (b'{"schemaVersion":2,"config":{"digest":"x","size":1}}', r"config\.digest: invalid digest 'x'"),
        (b'{"config":[]}', "config: expected an object"),
        (manifest().replace(b'"size": 3', b'"size": "3"'), r"config\.size: expected a whole number"),
        (manifest().replace(b'"size": 3', b'"size": true'), r"config\.size: expected a whole number from 0 on"),
        (manifest().replace(b'"size": 3', b'"size": -1'), r"config\.size: expected a whole number from 0 on"),
        (manifest().replace(b'"size": 3', b'"siz": 3'), r"config\.size: missing"),
        (b'{"manifests":{}}', "manifests: expected a list"),
        (b'{"manifests":[{}, 1]}', r"manifests\.1: expected an object"),
        (b'{"schemaVersion":2,"mediaType":"application/vnd.x"}', "unsupported media type 'application/vnd.x'"),
        (b"{}" + b" " * oci.MANIFEST_LIMIT_BYTES, "larger than"),
    ],
)
def test_what_is_no_manifest_is_refused_by_its_reason(content: bytes, expected: str) -> None:
    with pytest.raises(UnacceptableError, match=expected):
        oci.parse_document("", content, "reg.io/a:1")


def test_lists_that_are_null_are_empty() -> None:
    assert oci.parse_document(oci.OCI_INDEX, b'{"manifests":null}', "a") == oci.Index()


def test_layers_with_annotations_tell_each_other_apart() -> None:
    read = [oci.Descriptor.read(Fields(described(oci.OCI_LAYER, annotations={"a": each}))) for each in "xyx"]
    assert len(set(read)) == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"{", "not JSON"), (b'{"rootfs":{"diff_ids":[7]}}', r"rootfs\.diff_ids\.0: expected a dig")],
)
def test_a_malformed_config_is_refused_by_its_reason(content: bytes, expected: str) -> None:
    with pytest.raises(UnacceptableError, match=f"malformed image config of a: {expected}"):
        oci.parse_config(content, "a")


def test_a_config_that_does_not_fit_its_manifest_is_refused() -> None:
    with pytest.raises(UnacceptableError, match="2 layers but 1 diff IDs"):
        resolved(manifest(layers=2))


def test_a_layer_of_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(UnacceptableError, match=r"unsupported media type 'application/vnd.oci.*encrypted'"):
        resolved(manifest(oci.OCI_LAYER + "+encrypted"))


def entry(architecture: str, variant: str | None = None) -> oci.Descriptor:
    platform = {"os": "linux", "architecture": architecture, "variant": variant}
    return oci.Descriptor.read(Fields(described(oci.OCI_MANIFEST, platform=platform)))


def test_the_platforms_own_variant_is_chosen_first() -> None:
    index = oci.Index(manifests=(entry("arm", "v6"), entry("arm", "v7"), entry("amd64")))
    chosen = oci.choose_platform(index, Platform.parse("linux/arm/v7"), "a")
    assert chosen.platform is not None
    assert chosen.platform.variant == "v7"


def test_a_platform_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(NotFoundError, match="no manifest for linux/s390x; it has: linux/amd64, linux/arm/v6"):
        oci.choose_platform(
            oci.Index(manifests=(entry("arm", "v6"), entry("amd64"))), Platform.parse("linux/s390x"), "a"
        )


def test_platforms_are_read_as_people_write_them() -> None:
    assert str(Platform.parse("linux/arm64/v8")) == "linux/arm64/v8"
    with pytest.raises(InputError, match="expected os/architecture"):
        Platform.parse("amd64")


def test_chain_and_layer_ids_follow_their_rules() -> None:
    first, second = Digest("sha256", "1" * 64), Digest("sha256", "2" * 64)
    assert image.chain_ids([first, second]) == (first, Digest.of(f"{first} {second}".encode()))
    assert image.layer_ids([first, second]) == (
        first.hex,
        hashlib.sha256(f"{first.hex}+{second.hex}".encode()).hexdigest(),
    )
