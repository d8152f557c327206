"""HTTPS: what is offered, who is let in, and certificates that are renewed while connections are open."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from imagedist.config import Address
from imagedist.errors import ConfigError
from imagedist.service import Limits, ServerTls, serving
from imagedist.service.client_certificates import GUARDED_OTHERWISE
from tests.service.raw import Slow, raw
from tests.support.certificates import Authority

LOOPBACK = Address("127.0.0.1", 0)


async def shown(address: Address, context: ssl.SSLContext) -> str:
    """The name on the certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection(*address, ssl=context)
    certificate = writer.get_extra_info("peercert")
    writer.transport.abort()
    return str(certificate["subject"][0][0][1])


async def test_blobs_of_any_size_come_whole_by_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = ServerTls(*authority.issue("proxy"))
    async with serving(Slow().app, LOOPBACK, tls=tls) as address, aiohttp.ClientSession() as client:
        async with client.get(f"https://{address}/large", ssl=authority.client_context()) as response:
            assert len(await response.read()) == 64 << 20


async def test_a_renewed_certificate_is_shown_without_a_restart_and_a_half_renewed_one_is_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("old")
    new_certificate, new_key = authority.issue("new")
    context = authority.client_context()
    tls = ServerTls(certificate, key)
    async with serving(Slow().app, LOOPBACK, tls=tls) as address:
        assert await shown(address, context) == "old"
        shutil.copy(new_certificate, certificate)  # its key is still the old one
        tls.reload()
        assert await shown(address, context) == "old"
        shutil.copy(new_key, key)
        tls.reload()
        assert await shown(address, context) == "new"


async def test_the_files_are_looked_at_while_it_serves(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("old")
    renewed = authority.issue("new")
    async with serving(
        Slow().app, LOOPBACK, tls=ServerTls(certificate, key), limits=Limits(sweep_seconds=0.02)
    ) as address:
        for source, target in zip(renewed, (certificate, key), strict=True):
            shutil.copy(source, target)
        async with asyncio.timeout(60):
            while await shown(address, authority.client_context()) != "new":
                pass


async def test_old_versions_are_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.client_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with serving(Slow().app, LOOPBACK, tls=ServerTls(*authority.issue("proxy"))) as address:
        assert await shown(address, context) == "proxy"
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError):
            await shown(address, context)


async def test_with_a_client_ca_only_its_clients_are_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="imagedist.service.listener")
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    tls = ServerTls(*authority.issue("proxy"), authority.ca)
    statuses, said = [], ""
    async with serving(Slow().app, LOOPBACK, tls=tls) as address:
        for client_certificate in (authority.issue("node"), stranger.issue("other"), None):
            context = authority.client_context()
            if client_certificate:
                context.load_cert_chain(*client_certificate)
            async with aiohttp.ClientSession() as client:
                try:
                    for path in ("quick", "nowhere"):
                        async with client.get(f"https://{address}/{path}", ssl=context) as response:
                            statuses.append(response.status)
                            said = await response.text()
                except aiohttp.ClientError:
                    statuses.append(0)
    assert statuses == [200, 404, 0, 403, 403]  # a stranger's ends the handshake; who shows none is told what to do
    assert "refused the client certificate of ('127.0.0.1'," in caplog.text
    assert "site_client_certificate" in json.loads(said)["errors"][0]["message"]


async def test_what_is_guarded_otherwise_is_not_asked_for_a_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    open_part = web.Application()
    open_part[GUARDED_OTHERWISE] = True

    async def give(request: web.Request) -> web.Response:
        return web.Response(text="open")

    open_part.router.add_get("/quick", give)
    app = Slow().app
    app.add_subapp("/open", open_part)
    tls = ServerTls(*authority.issue("proxy"), authority.ca)
    async with serving(app, LOOPBACK, tls=tls) as address, aiohttp.ClientSession() as client:
        statuses = []
        for path in ("open/quick", "open/../quick", "open%2f..%2fquick", "quick"):
            url = URL(f"https://{address}/{path}", encoded=True)
            async with client.get(url, ssl=authority.client_context()) as response:
                statuses.append(response.status)
    assert statuses == [200, 404, 403, 403]


async def test_a_handshake_that_never_comes_is_ended(tmp_path: Path) -> None:
    tls = ServerTls(*Authority(tmp_path).issue("proxy"))
    limits = Limits(handshake_seconds=0.2, connections=1)
    async with serving(Slow().app, LOOPBACK, tls=tls, limits=limits) as address, raw(address) as client:
        assert await client.rest() == b""


def test_files_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("one")
    _, other_key = authority.issue("two")
    with pytest.raises(ConfigError, match=r"cannot use certificate .*one.pem with key .*two.key: KEY_VALUES_MISMATCH"):
        ServerTls(certificate, other_key)
    with pytest.raises(ConfigError, match=r"No such file"):
        ServerTls(certificate, tmp_path / "none")
    with pytest.raises(ConfigError, match=r"as client CA"):
        ServerTls(certificate, key, tmp_path / "none")
