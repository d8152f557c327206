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
from imagedist.oci.push import RegistryWriter
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
