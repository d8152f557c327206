from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imagedist.errors import IntegrityError, SourceError, StorageError, UnauthorizedError
from imagedist.oci.auth import Credentials
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_MANIFEST
from imagedist.oci.push import CHUNK_BYTES, RegistryWriter
from tests.support.registry import PASSWORD, USERNAME, FaultyRegistry

CONTENT = os.urandom(3_000_000)
DIGEST = Digest.of(CONTENT)


async def no_sleep(seconds: float) -> None:
    """Retries at once."""


@pytest.fixture
async def registry() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        yield registry


@pytest.fixture
async def writer(registry: FaultyRegistry) -> AsyncIterator[RegistryWriter]:
    async with RegistryWriter(registry.url, credentials=Credentials(USERNAME, PASSWORD), sleep=no_sleep) as writer:
        yield writer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    return path


async def test_file_and_bytes_are_pushed_once(registry: FaultyRegistry, writer: RegistryWriter, file: Path) -> None:
    await writer.push_blob("team/app", DIGEST, file)
    await writer.push_blob("team/app", DIGEST, file)
    await writer.push_blob("team/app", Digest.of(b"config"), b"config")
    assert registry.blobs == {DIGEST: CONTENT, Digest.of(b"config"): b"config"}
    assert registry.requests["PUT upload"] == 2


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_registry_that_asks_for_a_login_gets_one(
    registry: FaultyRegistry, writer: RegistryWriter, auth: str
) -> None:
    registry.auth = "basic" if auth == "basic" else "bearer"
    await writer.push_blob("team/app", Digest.of(b"config"), b"config")
    await writer.push_manifest("team/app", "1", b"{}", OCI_MANIFEST)
    assert registry.manifests["team/app", "1"] == (OCI_MANIFEST, b"{}")
    assert registry.upload_authorizations != [None]


async def test_refused_login_is_unauthorized(registry: FaultyRegistry) -> None:
    registry.auth = "basic"
    async with RegistryWriter(registry.url, credentials=Credentials("who", "what")) as writer:
        with pytest.raises(UnauthorizedError, match="check the credentials"):
            await writer.push_blob("team/app", Digest.of(b"config"), b"config")


async def test_failed_upload_begins_anew(registry: FaultyRegistry, writer: RegistryWriter, file: Path) -> None:
    registry.upload_statuses = [503, 500]
    await writer.push_blob("team/app", DIGEST, file)
    assert registry.blobs == {DIGEST: CONTENT}
    assert (registry.requests["POST uploads"], registry.requests["PUT upload"]) == (3, 3)


async def test_upload_elsewhere_gets_no_credentials(registry: FaultyRegistry, writer: RegistryWriter) -> None:
    registry.auth = "basic"
    registry.uploads_at = registry.url.replace("127.0.0.1", "localhost")
    await writer.push_blob("team/app", Digest.of(b"config"), b"config")
    assert registry.upload_authorizations == [None]


async def test_upload_at_no_web_address_is_refused(registry: FaultyRegistry, writer: RegistryWriter) -> None:
    registry.uploads_at = "file://"
    with pytest.raises(SourceError, match="refused"):
        await writer.push_blob("team/app", Digest.of(b"config"), b"config")


async def test_bytes_that_are_not_their_digest_are_told_by_the_registry(writer: RegistryWriter) -> None:
    with pytest.raises(SourceError, match="not its digest"):
        await writer.push_blob("team/app", DIGEST, b"other")


async def test_file_that_is_gone_is_a_storage_error(writer: RegistryWriter, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read what is to be pushed"):
        await writer.push_blob("team/app", DIGEST, tmp_path / "gone")


async def test_manifest_by_digest_is_found_by_it(registry: FaultyRegistry, writer: RegistryWriter) -> None:
    body = json.dumps({"schemaVersion": 2}).encode()
    await writer.push_manifest("team/app", str(Digest.of(body)), body, OCI_MANIFEST)
    assert (await writer.manifest("team/app", str(Digest.of(body)))).body == body


async def test_manifest_that_is_stored_as_other_bytes_is_told_however_the_field_is_written() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        digest = "sha256:" + "0" * 64
        writer.write(f"HTTP/1.1 201 Created\r\ncontent-length: 0\r\ndocker-content-digest: {digest}\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with RegistryWriter(f"http://127.0.0.1:{port}") as writer:
            with pytest.raises(IntegrityError, match="push again"):
                await writer.push_manifest("team/app", "1", b"{}", OCI_MANIFEST)


LARGE = os.urandom(2 * CHUNK_BYTES + 5_000)
LARGE_DIGEST = Digest.of(LARGE)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    return path


async def test_a_large_file_goes_in_chunks_and_every_byte_is_paced(
    registry: FaultyRegistry, writer: RegistryWriter, large: Path
) -> None:
    paced: list[int] = []
    noted: list[str] = []

    async def pace(size_bytes: int) -> None:
        paced.append(size_bytes)

    async def note(upload: str) -> None:
        noted.append(upload)

    await writer.push_file("team/app", LARGE_DIGEST, large, pace=pace, note=note)
    assert registry.blobs == {LARGE_DIGEST: LARGE}
    assert (registry.requests["PATCH upload"], sum(paced), len(noted)) == (3, len(LARGE), 3)


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_broken_chunk_goes_on_where_the_registry_says_or_the_upload_begins_anew(
    registry: FaultyRegistry, writer: RegistryWriter, large: Path, keeps: bool
) -> None:
    registry.keeps_uploads = keeps
    registry.upload_cuts = [1_000_000]
    sent = 0

    async def pace(size_bytes: int) -> None:
        nonlocal sent
        sent += size_bytes

    await writer.push_file("team/app", LARGE_DIGEST, large, pace=pace)
    assert registry.blobs == {LARGE_DIGEST: LARGE}
    assert registry.requests["POST uploads"] == (1 if keeps else 2)
    assert sent <= len(LARGE) + CHUNK_BYTES


async def test_another_process_goes_on_with_an_upload(
    registry: FaultyRegistry, writer: RegistryWriter, large: Path
) -> None:
    registry.chunks = bytearray(LARGE[:CHUNK_BYTES])
    begun = f"{registry.url}/v2/team/app/blobs/uploads/one?state=%2Fx"
    await writer.push_file("team/app", LARGE_DIGEST, large, begun=begun)
    assert registry.blobs == {LARGE_DIGEST: LARGE}
    assert (registry.requests["POST uploads"], registry.requests["PATCH upload"]) == (0, 2)


async def test_a_registry_that_takes_no_chunks_gets_all_in_one(
    registry: FaultyRegistry, writer: RegistryWriter, large: Path
) -> None:
    registry.takes_chunks = False
    await writer.push_file("team/app", LARGE_DIGEST, large)
    assert registry.blobs == {LARGE_DIGEST: LARGE}


async def test_a_blob_of_another_repository_is_mounted_and_not_sent(
    registry: FaultyRegistry, writer: RegistryWriter, file: Path
) -> None:
    await writer.push_file("team/app", DIGEST, file)
    assert not await writer.has_blob("team/copy", DIGEST)
    assert await writer.mount_blob("team/copy", DIGEST, "team/app")
    assert await writer.has_blob("team/copy", DIGEST)
    assert not await writer.mount_blob("team/third", DIGEST, "team/nowhere")
    assert registry.requests["PUT upload"] == 1
    assert registry.requests["DELETE upload"] == 1


async def test_a_tag_is_deleted_once_and_none_there_is_fine(registry: FaultyRegistry, writer: RegistryWriter) -> None:
    registry.add_image("team/app", "1", b"layer")
    await writer.delete_manifest("team/app", "1")
    await writer.delete_manifest("team/app", "1")
    assert ("team/app", "1") not in registry.manifests
    registry.deletes_tags = False
    with pytest.raises(SourceError, match="answered 405"):
        await writer.delete_manifest("team/app", "1")
