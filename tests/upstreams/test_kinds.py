"""Each kind of real registry, asked by the proxy as docs/upstreams.md configures it, pulled from by skopeo."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from imagedist.demo.image import build
from imagedist.demo.layout import BuiltImage
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.upstreams.proxy import Proxy
from tests.upstreams.servers import IDENTITY_TOKEN, PASSWORD, USERNAME, Nginx, Registry, TokenServer, htpasswd

pytestmark = pytest.mark.e2e

IMAGE = "team/app:1"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    return build(tmp_path_factory.mktemp("image") / "layout", size_bytes=6_000_000, name=IMAGE)


@pytest.fixture(scope="module")
def registry(built: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Open, with the image under two names."""
    registry = Registry(tmp_path_factory.mktemp("open") / "registry")
    registry.push(built, IMAGE)
    registry.push(built, "open/app:1")
    yield registry
    registry.stop()


@pytest.fixture
def guarded(registry: Registry, tmp_path: Path) -> Iterator[Registry]:
    """The same content for those who log in."""
    guarded = Registry(tmp_path / "guarded", htpasswd(tmp_path), registry.root)
    yield guarded
    guarded.stop()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def nginx(stack: ExitStack, directory: Path, http: str, *ports: int) -> Nginx:
    server = Nginx(directory, http, *ports)
    stack.callback(server.stop)
    return server


def blobs_asked(registry: Registry) -> list[str]:
    return [path for path in registry.requests() if "/blobs/" in path]


def test_open_registry(registry: Registry, built: BuiltImage, tmp_path: Path) -> None:
    before = len(blobs_asked(registry))
    with Proxy(tmp_path / "proxy", f'url = "{registry.url}"') as proxy:
        proxy.pulled(IMAGE)
        proxy.pulled(IMAGE)
        asked = blobs_asked(registry)[before:]
        assert len(asked) == len(set(asked)) == len({layer.descriptor.digest for layer in built.image.layers}) + 1
        assert proxy.metric("imagedist_received_bytes_total", source="upstream") >= built.size_bytes


def test_htpasswd_by_a_password_that_is_replaced_while_the_proxy_runs(guarded: Registry, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("wrong\n")
    keys = f'url = "{guarded.url}"\nusername = "{USERNAME}"\npassword_file = "{password}"\nnegative_ttl = "0s"'
    with Proxy(tmp_path / "proxy", keys) as proxy:
        done = proxy.pull(IMAGE)
        assert done.returncode != 0
        assert "check the credentials" in proxy.log.read_text()
        password.write_text(f"{PASSWORD}\n")
        proxy.pulled(IMAGE)
        assert "wrong" not in proxy.log.read_text()


def test_htpasswd_by_the_environment(guarded: Registry, tmp_path: Path) -> None:
    keys = f'url = "{guarded.url}"\nusername_env = "R_USER"\npassword_env = "R_PASSWORD"'
    with Proxy(tmp_path / "proxy", keys, env={"R_USER": USERNAME, "R_PASSWORD": PASSWORD}) as proxy:
        proxy.pulled(IMAGE)


def test_htpasswd_by_a_credential_helper(guarded: Registry, tmp_path: Path) -> None:
    helper = tmp_path / "bin" / "docker-credential-test"
    helper.parent.mkdir()
    secret = json.dumps({"ServerURL": "x", "Username": USERNAME, "Secret": PASSWORD})
    helper.write_text(f"#!/bin/sh\nread -r server\necho \"$1 $server\" >>{tmp_path}/asked\necho '{secret}'\n")
    helper.chmod(0o755)
    host = guarded.url.removeprefix("http://")
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {host: "test"}}))
    keys = f'url = "{guarded.url}"\ndocker_config = "{tmp_path}/config.json"'
    with Proxy(tmp_path / "proxy", keys, env={"PATH": f"{helper.parent}:{os.environ['PATH']}"}) as proxy:
        proxy.pulled(IMAGE)
    assert (tmp_path / "asked").read_text() == f"get {host}\n"  # once, for all of the image


@pytest.mark.parametrize("login", ["anonymous", "password", "identity token"])
async def test_token_server(registry: Registry, tmp_path: Path, login: str) -> None:
    async with TokenServer(tmp_path / "tokens") as tokens:
        guarded = await asyncio.to_thread(Registry, tmp_path / "guarded", tokens.auth(), registry.root)
        try:
            (tmp_path / "password").write_text(PASSWORD)
            host = guarded.url.removeprefix("http://")
            entry = {"auth": base64.b64encode(b"x:").decode(), "identitytoken": IDENTITY_TOKEN}
            (tmp_path / "config.json").write_text(json.dumps({"auths": {host: entry}}))
            keys = {
                "anonymous": "",
                "password": f'username = "{USERNAME}"\npassword_file = "{tmp_path}/password"',
                "identity token": f'docker_config = "{tmp_path}/config.json"',
            }[login]

            def may_pull() -> bool:
                with Proxy(tmp_path / "proxy", f'url = "{guarded.url}"\n{keys}') as proxy:
                    proxy.pulled("open/app:1")
                    return proxy.pull(IMAGE).returncode == 0

            assert await asyncio.to_thread(may_pull) == (login != "anonymous")
            scopes = [scope for user, scope in tokens.asked if user == (USERNAME if login != "anonymous" else "")]
            assert scopes.count("repository:open/app:pull") == 1  # one token for all of the image
        finally:
            await asyncio.to_thread(guarded.stop)


_TLS = """\
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate}; ssl_certificate_key {key};
        {client}
        location / {{ proxy_pass {url}; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto https; }}
    }}
"""


def test_behind_nginx_with_an_authority_of_its_own(registry: Registry, tmp_path: Path, stack: ExitStack) -> None:
    authority, port = Authority(tmp_path / "ca"), free_port()
    certificate, key = authority.issue("server")
    http = _TLS.format(port=port, certificate=certificate, key=key, client="", url=registry.url)
    nginx(stack, tmp_path / "nginx", http, port)
    with Proxy(tmp_path / "without", f'url = "https://127.0.0.1:{port}"') as proxy:
        assert proxy.pull(IMAGE).returncode != 0
        assert "certificate verify failed" in proxy.log.read_text()
    with Proxy(tmp_path / "with", f'url = "https://127.0.0.1:{port}"\nca_file = "{authority.ca}"') as proxy:
        proxy.pulled(IMAGE)


def test_behind_nginx_that_wants_a_client_certificate(registry: Registry, tmp_path: Path, stack: ExitStack) -> None:
    authority, port = Authority(tmp_path / "ca"), free_port()
    certificate, key = authority.issue("server")
    client = f"ssl_client_certificate {authority.ca}; ssl_verify_client on;"
    http = _TLS.format(port=port, certificate=certificate, key=key, client=client, url=registry.url)
    nginx(stack, tmp_path / "nginx", http, port)
    ours, our_key = authority.issue("proxy")
    keys = f'url = "https://127.0.0.1:{port}"\nca_file = "{authority.ca}"'
    with Proxy(tmp_path / "without", keys) as proxy:
        assert proxy.pull(IMAGE).returncode != 0
        assert "answered 400" in proxy.log.read_text()
    with Proxy(tmp_path / "with", f'{keys}\nclient_certificate = "{ours}"\nclient_key = "{our_key}"') as proxy:
        proxy.pulled(IMAGE)
        assert proxy.metric("imagedist_received_bytes_total", source="upstream") > 0


_ELSEWHERE = """\
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate}; ssl_certificate_key {key};
        location ~ "/blobs/" {{ return 307 https://127.0.0.6:{port}$request_uri; }}
        location / {{ proxy_pass {url}; }}
    }}
    server {{
        listen 127.0.0.6:{port} ssl;
        ssl_certificate {certificate}; ssl_certificate_key {key};
        location / {{ proxy_pass {url}; }}
    }}
"""


def test_any_registry_is_asked_by_its_name_and_leads_nowhere_but_to_public_addresses(
    registry: Registry, built: BuiltImage, tmp_path: Path, stack: ExitStack
) -> None:
    authority, port = Authority(tmp_path / "ca"), free_port()
    certificate, key = authority.issue("server", "127.0.0.1", "127.0.0.6")
    http = _ELSEWHERE.format(port=port, certificate=certificate, key=key, url=registry.url)
    server = nginx(stack, tmp_path / "nginx", http, port)
    env = {"SSL_CERT_FILE": str(authority.ca)}
    blob = built.image.layers[0].descriptor.digest
    manifest = f"/v2/team/app/manifests/1?ns=127.0.0.1:{port}"
    with Proxy(tmp_path / "strict", f'url = "{registry.url}"', "allow_any = true", env) as proxy:
        status, body = proxy.get(manifest)
        assert (status, "127.0.0.1 is refused: it is not a public address" in body) == (502, True)
    assert server.asked(port) == []
    keys = 'allow_any = true\nallow_addresses = ["127.0.0.1/32"]'
    with Proxy(tmp_path / "allowed", f'url = "{registry.url}"', keys, env) as proxy:
        assert proxy.get(manifest)[0] == 200
        status, body = proxy.get(f"/v2/team/app/blobs/{blob}?ns=127.0.0.1:{port}")
        assert (status, "127.0.0.6 is refused: it is not a public address" in body) == (502, True)


_REDIRECT = """\
    server {{
        listen 127.0.0.1:{port};
        location ~ "^/v2/.*/blobs/sha256:(..)(.*)$" {{
            if ($http_authorization = "") {{
                add_header WWW-Authenticate 'Basic realm="r"' always;
                return 401;
            }}
            return 307 http://127.0.0.6:{storage}/$1/$1$2/data?signature=%2Fx;
        }}
        location / {{ proxy_pass {url}; proxy_set_header Host $http_host; }}
    }}
    server {{
        listen 127.0.0.6:{storage};
        listen 127.0.0.1:{storage};
        if ($http_authorization) {{ return 400; }}
        if ($arg_signature != "%2Fx") {{ return 403; }}
        root {root}/docker/registry/v2/blobs/sha256;
    }}
"""


def test_blobs_on_another_host_that_is_shown_no_credentials(
    guarded: Registry, registry: Registry, tmp_path: Path, stack: ExitStack
) -> None:
    port, storage = free_port(), free_port()
    http = _REDIRECT.format(port=port, storage=storage, url=guarded.url, root=registry.root)
    server = nginx(stack, tmp_path / "nginx", http, port, storage)
    (tmp_path / "password").write_text(PASSWORD)
    keys = f'url = "http://127.0.0.1:{port}"\nusername = "{USERNAME}"\npassword_file = "{tmp_path}/password"'
    with Proxy(tmp_path / "proxy", keys) as proxy:
        proxy.pulled(IMAGE)
    asked = server.asked(storage)
    assert asked
    assert all(line.endswith("200 auth=-") for line in asked)
    assert not blobs_asked(guarded)


_THROTTLED = """\
    limit_req_zone $binary_remote_addr zone=one:1m rate=2r/s;
    server {{
        listen 127.0.0.1:{port};
        limit_req zone=one burst=1 nodelay;
        limit_req_status 429;
        error_page 429 @wait;
        location @wait {{ add_header Retry-After 1 always; return 429; }}
        location / {{ proxy_pass {url}; proxy_set_header Host $http_host; }}
    }}
"""


def test_registry_that_throttles(registry: Registry, tmp_path: Path, stack: ExitStack) -> None:
    port = free_port()
    server = nginx(stack, tmp_path / "nginx", _THROTTLED.format(port=port, url=registry.url), port)
    with Proxy(tmp_path / "proxy", f'url = "http://127.0.0.1:{port}"') as proxy:
        proxy.pulled(IMAGE)
    assert any(" 429 " in line for line in server.asked(port))


def test_mirror_of_a_registry_that_is_gone(registry: Registry, tmp_path: Path) -> None:
    keys = f'url = "http://127.0.0.1:{free_port()}"\nmirrors = ["{registry.url}"]'
    with Proxy(tmp_path / "proxy", keys) as proxy:
        proxy.pulled(IMAGE)
        assert proxy.metric("imagedist_received_bytes_total", source="mirror") > 0
        assert proxy.metric("imagedist_received_bytes_total", source="upstream") == 0


def test_registry_that_is_gone_is_left_alone_and_asked_again(registry: Registry, tmp_path: Path) -> None:
    directory = tmp_path / "registry"
    gone = Registry(directory, root=registry.root)
    keys = f'url = "{gone.url}"\nnegative_ttl = "0s"'
    with Proxy(tmp_path / "proxy", keys) as proxy:
        gone.stop()
        while proxy.metric("imagedist_upstream_open", upstream="up") == 0:
            assert proxy.pull(IMAGE).returncode != 0
        while "is not asked for another" not in proxy.pull(IMAGE).stderr + proxy.log.read_text():
            pass  # the pause doubles, so a pull is shorter than it in the end
        gone.start()
        while proxy.pull(IMAGE).returncode != 0:
            pass  # the pause doubles, so it ends
        assert proxy.metric("imagedist_upstream_open", upstream="up") == 0
    gone.stop()
