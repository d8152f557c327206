"""Registries that want to know who asks: Debian's docker-registry with htpasswd, and with a token server of ours."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from imagedist.demo.layout import BuiltImage
from tests.e2e.processes import Process, answers, succeed
from tests.e2e.upstream import HOST

PASSWORD = "s3cret"
_HTPASSWD = """\
alice:$2y$05$4beo4yKUD7Jg2uwrzmKiVexeGb9aNFADWDB7qqIeQGWQV5cnc/WYS
"""
_CONFIG = """\
version: 0.1
log:
  level: warn
  accesslog:
    disabled: false
storage:
  filesystem:
    rootdirectory: {root}
http:
  addr: {host}:{port}
auth:
{auth}
"""
_RUNTIMES = ("docker/", "containerd/", "containers/", "skopeo/")


class TokenServer:
    """The distribution project's token specification, with a list of who may pull what; JWTs signed by ``openssl``.

    Args:
        readers: repository → users, the empty one being anonymous. ``pusher`` may push everywhere.
    """

    issuer = "tests"
    service = "private"

    def __init__(self, base: Path, readers: dict[str, set[str]]) -> None:
        self._key, self.certificate = base / "token.key", base / "token.crt"
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests"]
        succeed([*request, "-keyout", str(self._key), "-out", str(self.certificate)])
        der = subprocess.run(
            ["openssl", "x509", "-in", str(self.certificate), "-outform", "DER"], capture_output=True, check=True
        ).stdout
        self._chain = [base64.b64encode(der).decode()]
        self._readers = readers
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = outer._answer(self.path, self.headers.get("Authorization"))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def realm(self) -> str:
        return f"http://{HOST}:{self._server.server_port}/token"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        user = ""
        if authorization is not None:
            user, _, password = base64.b64decode(authorization.partition(" ")[2]).decode().partition(":")
            if password != PASSWORD:
                return 401, b"{}"
        access = []
        for scope in parse_qs(urlsplit(path).query).get("scope", []):
            kind, name, actions = scope.split(":")
            allowed = {"pull"} if user in self._readers.get(name, set()) else set()
            allowed |= {"pull", "push"} if user == "pusher" else set()
            access.append({"type": kind, "name": name, "actions": sorted(allowed & set(actions.split(",")))})
        return 200, json.dumps({"token": self._sign(user, access), "expires_in": 300}).encode()

    def _sign(self, user: str, access: list[dict[str, object]]) -> str:
        now = int(time.time())
        times = {"exp": now + 300, "nbf": now - 10, "iat": now}
        names = {"iss": self.issuer, "sub": user, "aud": self.service, "jti": uuid.uuid4().hex}
        header = {"typ": "JWT", "alg": "RS256", "x5c": self._chain}
        signed = b".".join(
            _encode(json.dumps(part).encode()) for part in (header, {**names, **times, "access": access})
        )
        sign = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        signature = subprocess.run(sign, input=signed, capture_output=True, check=True).stdout
        return (signed + b"." + _encode(signature)).decode()


def _encode(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


class PrivateRegistry:
    """One docker-registry. ``pusher`` is the ``user:password`` that may push."""

    def __init__(self, base: Path, port: int, auth: str, pusher: str) -> None:
        base.mkdir(parents=True)
        self.url = f"http://{HOST}:{port}"
        self._address = f"{HOST}:{port}"
        self._pusher = pusher
        self._log = base / "registry.log"
        config = base / "config.yml"
        config.write_text(_CONFIG.format(root=base / "registry", host=HOST, port=port, auth=auth))
        self._process = Process(["docker-registry", "serve", str(config)], self._log)
        try:
            # 401 is an answer, too: the root is open
            self._process.wait_until(lambda: answers(f"{self.url}/"), f"docker-registry at {self.url}")
        except AssertionError:
            self._process.stop()
            raise

    @classmethod
    def by_htpasswd(cls, base: Path, port: int) -> PrivateRegistry:
        """``alice`` may do everything, nobody else anything."""
        passwords = base.with_name(f"{base.name}.htpasswd")
        passwords.write_text(_HTPASSWD)
        auth = f"  htpasswd:\n    realm: private\n    path: {passwords}"
        return cls(base, port, auth, f"alice:{PASSWORD}")

    @classmethod
    def by_token(cls, base: Path, port: int, tokens: TokenServer) -> PrivateRegistry:
        keys = {
            "realm": tokens.realm,
            "service": tokens.service,
            "issuer": tokens.issuer,
            "rootcertbundle": tokens.certificate,
        }
        auth = "  token:\n" + "\n".join(f"    {key}: {value}" for key, value in keys.items())
        return cls(base, port, auth, f"pusher:{PASSWORD}")

    def push(self, built: BuiltImage, name: str) -> None:
        target = f"docker://{self._address}/{name}"
        flags = ["--preserve-digests", "--dest-tls-verify=false", "--dest-creds", self._pusher]
        succeed(["skopeo", "copy", *flags, f"oci:{built.layout}", target])

    def forget(self) -> None:
        """The log of who asked begins again."""
        self._log.write_text("")

    def runtimes_that_asked(self) -> set[str]:
        """The runtimes that got something here themselves, rather than from a mirror."""
        agents = [line.rsplit('"', 2)[1] for line in self._log.read_text().splitlines() if '" 200 ' in line]
        return {name for name in _RUNTIMES for agent in agents if agent.startswith(name)}

    def stop(self) -> None:
        self._process.stop()
