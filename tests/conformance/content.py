"""What the upstream has: images, an index, referrers, many tags; pushed as clients do, without a client's rules."""

from __future__ import annotations

import json
import random
import urllib.request
from dataclasses import dataclass

from imagedist.oci.digest import Digest
from imagedist.oci.manifest import DOCKER_INDEX, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST

BLOB = random.Random(5).randbytes(1 << 20)
LONG_TAG = "T" * 128
TAGS = ("10", "C", "a", "b", "d", LONG_TAG)
LONG_NAME = "/".join(["n" * 30] * 8)  # 247 characters, and the proxy's prefix
SBOM, SIGNATURE = "application/vnd.example.sbom", "application/vnd.example.signature"


@dataclass(frozen=True, slots=True)
class Content:
    """Digests and bytes by what they are."""

    blob: Digest
    sha512_blob: Digest
    manifest: Digest
    manifest_bytes: bytes
    index_bytes: bytes
    list_bytes: bytes
    referrers: list[dict[str, object]]


def push_all(url: str) -> Content:
    config = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'
    layer = {"mediaType": OCI_LAYER, "digest": str(Digest.of(BLOB)), "size": len(BLOB)}
    foreign = {**layer, "mediaType": f"{OCI_LAYER}+gzip", "urls": ["https://store.example/layer"]}
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
            "layers": [layer, foreign],
        }
    )
    digest = Digest.of(manifest)
    entry = {"mediaType": OCI_MANIFEST, "digest": str(digest), "size": len(manifest)}
    platform = {"architecture": "amd64", "os": "linux"}
    index = _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{**entry, "platform": platform}]})
    listed = _json({"schemaVersion": 2, "mediaType": DOCKER_INDEX, "manifests": [{**entry, "platform": platform}]})
    referrers: list[dict[str, object]] = [
        {**entry, "artifactType": SBOM, "annotations": {"a": "b"}},
        {**entry, "artifactType": SIGNATURE},
    ]
    for repository in ("team/app", "team/tags", LONG_NAME):
        _push_blob(url, repository, config, Digest.of(config))
        _push_blob(url, repository, BLOB, Digest.of(BLOB))
        for tag in {"team/app": ("1",), "team/tags": TAGS}.get(repository, ("1",)):
            _push_manifest(url, repository, tag, OCI_MANIFEST, manifest)
    _push_manifest(url, "team/app", "index", OCI_INDEX, index)
    _push_manifest(url, "team/app", "list", DOCKER_INDEX, listed)
    tagged = _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": referrers})
    _push_manifest(url, "team/app", f"sha256-{digest.hex}", OCI_INDEX, tagged)
    sha512 = Digest.of(BLOB[:1000], "sha512")
    _push_blob(url, "team/app", BLOB[:1000], sha512)
    return Content(Digest.of(BLOB), sha512, digest, manifest, index, listed, referrers)


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


def _push_blob(url: str, repository: str, content: bytes, digest: Digest) -> None:
    begun = urllib.request.Request(f"{url}/v2/{repository}/blobs/uploads/", method="POST")
    with urllib.request.urlopen(begun) as response:
        location = str(response.headers["Location"])
    upload = f"{location}{'&' if '?' in location else '?'}digest={digest}"
    headers = {"Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(upload, content, headers, method="PUT")).close()


def _push_manifest(url: str, repository: str, tag: str, media_type: str, content: bytes) -> None:
    at = f"{url}/v2/{repository}/manifests/{tag}"
    urllib.request.urlopen(urllib.request.Request(at, content, {"Content-Type": media_type}, method="PUT")).close()
