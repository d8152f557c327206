"""Builders of real layer tars and images, ordinary and hostile. Pure: bytes in, bytes out."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import zstandard

from imagedist.oci import manifest as oci
from imagedist.oci.digest import Digest
from tests.support import sparse

MTIME = 1_700_000_000


@dataclass(frozen=True)
class Member:
    """One tar entry. ``kind`` is a tarfile type constant; ``pax`` are extra records, xattrs as ``SCHILY.xattr.*``.

    ``raw`` is what the tar gets instead: headers and content as they are.
    """

    name: str
    kind: bytes = tarfile.REGTYPE
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = MTIME
    link: str = ""
    device: tuple[int, int] = (0, 0)
    pax: Mapping[str, str] = field(default_factory=dict)
    raw: bytes = b""


def file(name: str, content: bytes = b"", **rest: Any) -> Member:
    return Member(name, content=content, **rest)


def directory(name: str, mode: int = 0o755, **rest: Any) -> Member:
    return Member(name, tarfile.DIRTYPE, mode=mode, **rest)


def symlink(name: str, target: str, **rest: Any) -> Member:
    return Member(name, tarfile.SYMTYPE, link=target, mode=0o777, **rest)


def hardlink(name: str, target: str, **rest: Any) -> Member:
    return Member(name, tarfile.LNKTYPE, link=target, **rest)


def fifo(name: str, **rest: Any) -> Member:
    return Member(name, tarfile.FIFOTYPE, **rest)


def character_device(name: str, major: int, minor: int, **rest: Any) -> Member:
    return Member(name, tarfile.CHRTYPE, device=(major, minor), **rest)


def block_device(name: str, major: int, minor: int, **rest: Any) -> Member:
    return Member(name, tarfile.BLKTYPE, device=(major, minor), **rest)


def sparse_file(name: str, form: str, size_bytes: int, extents: sparse.Extents, stored: bytes) -> Member:
    return Member(name, raw=sparse.member(form, name, size_bytes, extents, stored))


def whiteout(name: str) -> Member:
    """Hides ``name`` of the layers below."""
    parent, slash, last = name.rpartition("/")
    return Member(f"{parent}{slash}.wh.{last}")


def opaque(name: str) -> Member:
    """Hides everything the layers below have in directory ``name`` ("" for the root)."""
    return Member(f"{name}/.wh..wh..opq" if name else ".wh..wh..opq")


def tar(members: Sequence[Member], format: int = tarfile.PAX_FORMAT) -> bytes:
    """An uncompressed layer. Long names become pax records or, with ``tarfile.GNU_FORMAT``, GNU long names."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as archive:
        for member in members:
            if member.raw:
                output.write(member.raw)
                archive.offset += len(member.raw)  # type: ignore[attr-defined]  # typeshed does not know it
                continue
            entry = tarfile.TarInfo(member.name)
            entry.type, entry.mode, entry.mtime = member.kind, member.mode, member.mtime
            entry.uid, entry.gid, entry.linkname = member.uid, member.gid, member.link
            entry.devmajor, entry.devminor = member.device
            entry.pax_headers = dict(member.pax)
            entry.size = len(member.content)
            archive.addfile(entry, io.BytesIO(member.content))
    return output.getvalue()


def gzip_members(content: bytes, member_bytes: int = 64 << 10) -> bytes:
    """gzip cut into several members, as ``cat a.gz b.gz`` gives."""
    parts = [content[start : start + member_bytes] for start in range(0, max(len(content), 1), member_bytes)]
    return b"".join(gzip.compress(part, 6, mtime=0) for part in parts)


def indexed_gzip(content: bytes, member_bytes: int = 64 << 10) -> bytes:
    """What pgzip writes: members that carry their own size in an ``IG`` extra field."""
    members = []
    for start in range(0, max(len(content), 1), member_bytes):
        part = content[start : start + member_bytes]
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = deflate.compress(part) + deflate.flush()
        body += struct.pack("<II", zlib.crc32(part), len(part) & 0xFFFFFFFF)
        header_bytes = 10 + 2 + 8
        extra = b"IG" + struct.pack("<HI", 4, header_bytes + len(body))
        members.append(b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack("<H", len(extra)) + extra + body)
    return b"".join(members)


def zstd_frames(content: bytes, frame_bytes: int = 64 << 10) -> bytes:
    """Several zstd frames with a skippable one between (zstd:chunked images end with such frames)."""
    compressor = zstandard.ZstdCompressor(level=3)
    skippable = struct.pack("<II", 0x184D2A50, 5) + b"aside"
    parts = [content[start : start + frame_bytes] for start in range(0, max(len(content), 1), frame_bytes)]
    return skippable.join(compressor.compress(part) for part in parts) + skippable


def compress(content: bytes, compression: str) -> bytes:
    """By name: ``none``, ``gzip``, ``gzip members``, ``indexed gzip``, ``zstd``."""
    if compression == "gzip":
        return gzip.compress(content, 6, mtime=0)
    if compression == "gzip members":
        return gzip_members(content)
    if compression == "indexed gzip":
        return indexed_gzip(content)
    if compression == "zstd":
        return zstd_frames(content)
    return content


_SUFFIX = {"none": "", "gzip": "+gzip", "gzip members": "+gzip", "indexed gzip": "+gzip", "zstd": "+zstd"}


def layer(content: bytes, compression: str = "gzip") -> tuple[oci.Layer, bytes]:
    """A lone layer of an uncompressed tar: what a manifest says of it, and its blob."""
    blob = compress(content, compression)
    descriptor = oci.Descriptor(
        media_type=oci.OCI_LAYER + _SUFFIX[compression], digest=Digest.of(blob), size_bytes=len(blob)
    )
    return oci.Layer(descriptor, Digest.of(content), Digest.of(content)), blob


@dataclass(frozen=True)
class BuiltImage:
    """An image with every blob it needs, by digest (layers and config; the manifest is ``image.manifest_bytes``)."""

    image: oci.Image
    blobs: Mapping[Digest, bytes]


def image(
    layers: Sequence[bytes | Sequence[Member]],
    reference: str = "registry.example/app:1",
    compression: str = "gzip",
    config: Mapping[str, Any] | None = None,
) -> BuiltImage:
    """Builds an image, base layer first.

    Args:
        layers: uncompressed tars, or the members to make them of.
        config: merged into the image config (``{"config": {"Cmd": […]}}``).
    """
    built = [layer(content if isinstance(content, bytes) else tar(content), compression) for content in layers]
    document = {
        "architecture": oci.Platform.of_this_machine().architecture,
        "os": "linux",
        **(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [str(one.diff_id) for one, _ in built]},
    }
    config_bytes = json.dumps(document).encode()

    def describe(media_type: str, digest: Digest, size: int) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": str(digest), "size": size}

    manifest_bytes = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": oci.OCI_MANIFEST,
            "config": describe(oci.OCI_CONFIG, Digest.of(config_bytes), len(config_bytes)),
            "layers": [
                describe(one.descriptor.media_type, one.descriptor.digest, one.descriptor.size_bytes)
                for one, _ in built
            ],
        }
    ).encode()
    manifest = oci.parse_document(oci.OCI_MANIFEST, manifest_bytes, reference)
    assert isinstance(manifest, oci.Manifest)
    resolved = oci.resolve(reference, manifest, manifest_bytes, Digest.of(manifest_bytes), config_bytes)
    blobs = {one.descriptor.digest: blob for one, blob in built}
    return BuiltImage(resolved, {**blobs, Digest.of(config_bytes): config_bytes})
