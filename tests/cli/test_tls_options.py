"""``--ca-file``, ``--client-certificate`` and ``--client-key`` of the commands that ask registries themselves."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from pathlib import Path

import pytest

from tests.seeder.sync.sites import Registry
from tests.support import layers
from tests.support.certificates import Authority

BUILT = layers.image([[layers.file("a", b"a" * 1000)]])


async def imagedist(*words: str) -> tuple[int | None, str]:
    """A command's exit code, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "imagedist", *words),
        env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


def wanting_certificates(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("registry"))
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_verify_and_repack_show_registries_the_certificate_that_is_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("user")
    trusting = ["--ca-file", str(authority.ca)]
    showing = [*trusting, "--client-certificate", str(certificate), "--client-key", str(key)]
    async with Registry(tls=wanting_certificates(authority)) as guarded, Registry() as open_to_all:
        for registry in (guarded, open_to_all):
            registry.blobs.update(BUILT.blobs)
            registry.add_manifest("team/app", "1", BUILT.image.manifest_bytes)
        host = guarded.url.removeprefix("https://")
        verify = ["verify", f"local={guarded.url}", f"local={open_to_all.url}", "--deep"]
        repack = ["repack", f"{host}/team/app:1", f"{host}/team/app:repacked"]
        for command in (verify, repack):
            asked = guarded.requests.total()
            code, said = await imagedist(*command, *trusting)
            assert (code, guarded.requests.total()) == (1, asked), said
            code, said = await imagedist(*command, *showing)
            assert code == 0, said
        assert ("team/app", "repacked") in guarded.manifests
        code, said = await imagedist("verify", f"backup:{guarded.url}", f"backup:{open_to_all.url}", *showing)
        assert (code, "team/app:repacked" in said) == (1, True), said


@pytest.mark.parametrize("command", ["verify", "repack", "pull"])
async def test_a_key_without_its_certificate_is_refused(command: str) -> None:
    words = [command, "https://127.0.0.1:1", "https://127.0.0.1:1"][: 2 if command == "pull" else 3]
    code, said = await imagedist(*words, "--client-key", "/k")
    assert (code, said) == (2, "imagedist: --client-key needs --client-certificate beside it\n")
