"""The upstreams of the real world, as processes: docker-registry with each kind of login, nginx before it."""

from __future__ import annotations

import base64
import json
import secrets
import socket
import subprocess
import time
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from imagedist.demo.layout import BuiltImage
from imagedist.oci.auth import parse_basic
from tests.e2e.processes import Process, succeed
from tests.support.certificates import Authority
from tests.support.ports import free_port

USERNAME, PASSWORD, IDENTITY_TOKEN = "robot", "s:cret", "kept"
SERVICE = "registry under test"

_REGISTRY = """\
version: 0.1
log: {{level: warn, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}", relativeurls: true}}
{auth}
"""


class Registry:
    """Debian's docker-registry on a port of its own, with an image.

    Args:
        auth: the ``auth`` section of its configuration.
        root: of the storage; another registry's, for the same content with another login.
    """

    def __init__(self, directory: Path, auth: str = "", root: Path | None = None) -> None:
        directory.mkdir(parents=True)
        self.port = free_port()
        self.root = root or directory / "storage"
        self.log = directory / "registry.log"
        config = directory / "config.yml"
        config.write_text(_REGISTRY.format(root=self.root, port=self.port, auth=auth))
        self._argv = ["docker-registry", "serve", str(config)]
        self.start()

    def start(self) -> None:
        self._process = Process(self._argv, self.log)
        self._process.wait_until(lambda: listens(self.port), f"docker-registry on {self.port}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def push(self, built: BuiltImage, name: str) -> None:
        target = f"docker://127.0.0.1:{self.port}/{name}"
        succeed(["skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{built.layout}", target])

    def requests(self, method: str = "GET") -> list[str]:
        """The paths that were asked for, from the access log."""
        return [
            line.split('"')[1].split()[1] for line in self.log.read_text().splitlines() if f'"{method} /v2/' in line
        ]

    def stop(self) -> None:
        self._process.stop()


def htpasswd(directory: Path) -> str:
    """An ``auth`` section: Basic, the password hashed as docker-registry wants it."""
    path = directory / "htpasswd"
    path.write_text(succeed(["htpasswd", "-nbB", USERNAME, PASSWORD]).stdout)
    return f'auth: {{htpasswd: {{realm: "a, b", path: {path}}}}}'


class TokenServer:
    """A token server that docker-registry believes: RS256 with its certificate in the token. Use as a context.

    Anonymous askers may pull ``open/…``; the robot everything.

    Attributes:
        asked: (user, scope) of each token that was given.
    """

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory, "token-ca")
        self._certificate, self._key = authority.issue("token", rsa=True)
        self._authority = authority
        self.asked: list[tuple[str, str]] = []
        app = web.Application()
        app.router.add_get("/token", self._get)
        app.router.add_post("/token", self._post)
        self._server = TestServer(app, host="127.0.0.1")

    async def __aenter__(self) -> TokenServer:
        await self._server.start_server()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._server.close()

    def auth(self) -> str:
        """The ``auth`` section."""
        realm = self._server.make_url("/token")
        bundle = self._authority.ca
        return f'auth: {{token: {{realm: "{realm}", service: "{SERVICE}", issuer: tests, rootcertbundle: {bundle}}}}}'

    async def _get(self, request: web.Request) -> web.Response:
        credentials = parse_basic(request.headers.get("Authorization", ""))
        if credentials is not None and (credentials.username, credentials.password) != (USERNAME, PASSWORD):
            return web.Response(status=401)
        user = credentials.username if credentials else ""
        return web.json_response({"token": self._token(user, request.query["scope"]), "expires_in": 300})

    async def _post(self, request: web.Request) -> web.Response:
        form = {key: str(value) for key, value in (await request.post()).items()}
        if form.get("grant_type") != "refresh_token" or form.get("refresh_token") != IDENTITY_TOKEN:
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"access_token": self._token(USERNAME, form["scope"]), "expires_in": 300})

    def _token(self, user: str, scope: str) -> str:
        self.asked.append((user, scope))
        _, name, actions = scope.split(":")
        may = user == USERNAME or name.startswith("open/")
        now = int(time.time())
        claims = {
            "iss": "tests",
            "sub": user,
            "aud": SERVICE,
            "jti": secrets.token_hex(8),
            "iat": now,
            "nbf": now - 10,
            "exp": now + 300,
            "access": [{"type": "repository", "name": name, "actions": actions.split(",")}] if may else [],
        }
        chain = "".join(self._certificate.read_text().splitlines()[1:-1])
        parts = [{"typ": "JWT", "alg": "RS256", "x5c": [chain]}, claims]
        signed = ".".join(_base64(json.dumps(part).encode()) for part in parts)
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        signature = subprocess.run(command, input=signed.encode(), capture_output=True, check=True).stdout
        return f"{signed}.{_base64(signature)}"


_NGINX = """\
worker_processes 1;
daemon off;
pid {directory}/pid;
error_log stderr warn;
{user}
events {{ worker_connections 256; }}
http {{
    log_format asked '$server_port $request_method $uri $status auth=$http_authorization';
    access_log {directory}/access.log asked;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
{http}
}}
"""


class Nginx:
    """nginx with the given ``http`` block; ``access.log`` says what it was asked."""

    def __init__(self, directory: Path, http: str, *ports: int) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        user = "user root;"  # the registry's files lie below directories that are pytest's own
        (directory / "nginx.conf").write_text(_NGINX.format(directory=directory, http=http, user=user))
        argv = ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")]
        self._process = Process(argv, directory / "nginx.log")
        self._process.wait_until(lambda: all(map(listens, ports)), f"nginx on {ports}")

    def asked(self, port: int) -> list[str]:
        """``METHOD path status auth=…`` of each request to that port."""
        lines = (self._directory / "access.log").read_text().splitlines()
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{port} ")]

    def stop(self) -> None:
        self._process.stop()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
