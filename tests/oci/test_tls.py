"""TLS as an upstream's table says it: an authority of one's own, client certificates that are replaced, tunnels."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from imagedist.errors import ConfigError, SourceError
from imagedist.oci.auth import Credentials
from imagedist.oci.client import RegistryClient
from imagedist.oci.guard import Guard
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.proxies import parse_proxy
from imagedist.oci.tls import Tls
from tests.support.connect import ConnectProxy
from tests.support.registry import FaultyRegistry


def issue(directory: Path, name: str) -> tuple[Path, Path]:
    """A certificate that is its own authority, and its key."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}"]
    kind += ["-addext", "subjectAltName=DNS:localhost,DNS:registry.example"]
    command = ["openssl", "req", *kind, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@asynccontextmanager
async def registry(certificate: Path, key: Path, clients: Path | None = None) -> AsyncIterator[int]:
    """A registry of one manifest on TLS; its port. With ``clients`` it wants a certificate of that authority."""

    async def manifest(request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert") or {}
        subject = dict(pair[0] for pair in peer.get("subject", ()))
        return web.json_response({"client": subject.get("commonName", "nobody")})

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    app = web.Application()
    app.router.add_get("/v2/{path:.*}", manifest)
    server = TestServer(app, host="127.0.0.1", scheme="https")
    await server.start_server(ssl=context)
    try:
        assert server.port is not None
        yield server.port
    finally:
        await server.close()


async def ask(port: int, http: AiohttpClient, host: str = "localhost") -> str:
    async with RegistryClient(f"https://{host}:{port}", http=http) as client:
        client_name: str = json.loads((await client.manifest("a", "1")).body)["client"]
        return client_name


async def test_authority_of_ones_own_is_trusted_besides_the_systems(tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "server")
    async with registry(certificate, key) as port:
        with pytest.raises(SourceError, match="certificate verify failed"):
            await ask(port, AiohttpClient())
        tls = Tls(certificate)
        assert await ask(port, AiohttpClient(tls=tls, own_host="localhost")) == "nobody"
        assert len(tls.context().get_ca_certs()) > 1


async def test_replaced_client_certificate_counts_for_the_next_connection(tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "server")
    (tmp_path / "clients.pem").write_text("".join(issue(tmp_path, name)[0].read_text() for name in ("old", "new")))
    ours, our_key = tmp_path / "ours.pem", tmp_path / "ours.key"

    def place(name: str) -> None:
        for suffix in (".pem", ".key"):
            (tmp_path / f"ours{suffix}").unlink(missing_ok=True)
            (tmp_path / f"ours{suffix}").write_text((tmp_path / f"{name}{suffix}").read_text())

    place("old")
    tls = Tls(certificate, ours, our_key)
    async with registry(certificate, key, tmp_path / "clients.pem") as port:
        assert await ask(port, AiohttpClient(tls=tls, own_host="localhost")) == "old"
        place("new")
        assert await ask(port, AiohttpClient(tls=tls, own_host="localhost")) == "new"
        our_key.unlink()  # being replaced this moment
        assert await ask(port, AiohttpClient(tls=tls, own_host="localhost")) == "new"


async def test_client_certificate_is_shown_to_nobody_else(tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "server")
    ours, our_key = issue(tmp_path, "ours")
    http = AiohttpClient(
        tls=Tls(certificate, ours, our_key),
        elsewhere_tls=Tls(certificate),
        own_host="registry.example",
        guard=Guard(only_public=False),
    )
    async with registry(certificate, key, ours) as port:
        with pytest.raises(SourceError, match="refused"):  # loopback is not where a registry elsewhere leads to
            await ask(port, http)
        http = AiohttpClient(tls=Tls(certificate, ours, our_key), elsewhere_tls=Tls(certificate), own_host="r.example")
        with pytest.raises(SourceError):
            await asyncio.wait_for(ask(port, http), 30)
        http = AiohttpClient(tls=Tls(certificate, ours, our_key), own_host="localhost")
        assert await ask(port, http) == "ours"


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("missing.pem", "a.key", "cannot read .*missing.pem: No such file"),
        ("a.pem", "b.key", "cannot use the client certificate in .*a.pem and .*b.key: the key does not belong"),
        ("a.key", None, "cannot use the client certificate in .*a.key"),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, certificate: str, key: str | None, message: str) -> None:
    for name in ("a", "b"):
        issue(tmp_path, name)
    with pytest.raises(ConfigError, match=message):
        Tls(None, tmp_path / certificate, tmp_path / key if key else None)


async def test_tls_goes_through_a_tunnel_of_an_http_proxy(tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "server")
    async with registry(certificate, key) as port, ConnectProxy() as proxy:
        through = parse_proxy(f"http://me:s%3Acret@127.0.0.1:{proxy.port}", "proxy")
        http = AiohttpClient(tls=Tls(certificate), own_host="registry.example", find_proxy=lambda url: through)
        assert await ask(port, http, "registry.example") == "nobody"
    assert proxy.asked == [f"registry.example:{port}"]
    assert proxy.logins == {f"Basic {base64.b64encode(b'me:s:cret').decode()}"}


async def test_plain_requests_go_to_a_proxy_with_its_login() -> None:
    async with FaultyRegistry() as proxy:
        proxy.add_manifest("a", "1", b"{}")
        through = parse_proxy(proxy.url.replace("//", "//me:s%3Acret@"), "proxy")
        http = AiohttpClient(find_proxy=lambda url: through)
        async with RegistryClient("http://registry.example", http=http) as client:
            assert (await client.manifest("a", "1")).body == b"{}"
    assert proxy.proxy_authorizations == {Credentials("me", "s:cret").basic()}


async def test_password_of_a_proxy_that_refuses_is_not_repeated() -> None:
    async with ConnectProxy(refuses=True) as proxy:
        through = parse_proxy(f"http://me:s3cret@127.0.0.1:{proxy.port}", "proxy")

        async def no_nap(seconds: float) -> None:
            pass

        for scheme in ("http", "https"):
            http = AiohttpClient(find_proxy=lambda url: through)
            async with RegistryClient(f"{scheme}://registry.example", http=http, sleep=no_nap) as client:
                with pytest.raises(SourceError, match="407") as caught:
                    await client.manifest("a", "1")
            assert "s3cret" not in str(caught.value)
