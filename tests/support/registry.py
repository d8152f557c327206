"""An upstream registry in this process, on an ephemeral port of loopback, that fails in the ways real ones do."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
from collections import Counter
from typing import Literal, Self

from aiohttp import web
from aiohttp.test_utils import TestServer

from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST

USERNAME, PASSWORD, TOKEN, IDENTITY_TOKEN = "robot", "pass:word", "t0k.en", "kept&kept"


class FaultyRegistry:
    """A registry; use it as a context. Faults are attributes, to be changed at any time.

    Attributes:
        statuses: answered to the next requests of /v2, one each, with ``retry_after`` as their header.
        fails_by_turns: every second request of /v2 is answered 500.
        cuts: how many bytes of the next blob bodies to send before the connection breaks, one each.
        corrupt: flip the first byte of blob bodies.
        lie_bytes: added to the Content-Length of blobs.
        drops: blob bodies come byte by byte, each after so many seconds.
        gate: blob bodies pause in the middle until it is set.
        manifest_gate: manifests are looked up at once, and sent when it is set; ``asked`` is set meanwhile.
        lies: reference → the digest that manifests are said to have.
        redirect_to: base URL that blob requests are sent to.
        refuses_authorization: answers 400 to anyone who sends credentials (a CDN with signed URLs).
        ignores_ranges: answers 200 with the whole blob.
        upload_statuses: answered to the next uploads' bodies, one each.
        upload_cuts: how many bytes of the next chunks to take before the connection breaks, one each; whether what came
            is kept for who goes on with it says ``keeps_uploads``.
        takes_chunks: else PATCH is answered 405. deletes_tags: else a deletion by tag is.
        uploads_at: base URL that uploads are sent to.
        hidden_from: a repository in which blobs are unknown; asking there sets ``asked`` and waits for ``answer``.
        auth: what to demand. realm: another token server than its own.
        tag_lists: repository → its tags, sent at once whatever the query; None: every repository has a and b, a page
            each.
        referrers: subject → descriptors, given one a page and not filtered; None: no such API.
        readers: repositories that want credentials, and who may read them; every other is open. Given this, ``auth``
            only says how users log in. A user's password is ``PASSWORD``.
        holders: the repositories that have a blob, of those that not all have.
        requests: ``METHOD path`` → how often, counted before any fault. queries, ranges, authorizations,
            proxy_authorizations: what came with the requests of /v2.
    """

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.blobs: dict[Digest, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.statuses: list[int] = []
        self.retry_after: str | None = None
        self.fails_by_turns = False
        self.cuts: list[int] = []
        self.corrupt = False
        self.lie_bytes = 0
        self.drops: float | None = None
        self.gate: asyncio.Event | None = None
        self.manifest_gate: asyncio.Event | None = None
        self.lies: dict[str, Digest] = {}
        self.redirect_to: str | None = None
        self.refuses_authorization = False
        self.ignores_ranges = False
        self.upload_statuses: list[int] = []
        self.upload_cuts: list[int] = []
        self.keeps_uploads = True
        self.takes_chunks = True
        self.deletes_tags = True
        self.chunks: bytearray | None = None
        self.uploads_at: str | None = None
        self.upload_authorizations: list[str | None] = []
        self.hidden_from: str | None = None
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.tag_lists: dict[str, list[str]] | None = None
        self.referrers: dict[Digest, list[dict[str, object]]] | None = None
        self.auth: Literal["basic", "bearer"] | None = None
        self.realm: str | None = None
        self.readers: dict[str, set[str]] = {}
        self.holders: dict[Digest, set[str]] = {}
        self.token_life_seconds = 300
        self.tokens_given = 0
        self.requests: Counter[str] = Counter()
        self.queries: list[dict[str, str]] = []
        self.ranges: list[str] = []
        self.authorizations: set[str | None] = set()
        self.proxy_authorizations: set[str | None] = set()
        self.blob_gets: Counter[Digest] = Counter()
        self.bytes_sent = 0
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/token", self._token)
        app.router.add_post("/token", self._token_for_identity)
        app.router.add_get("/v2/{path:.*}/blobs/uploads/{upload}", self._upload_state)
        app.router.add_get("/v2/{path:.*}", self._handle)
        app.router.add_post("/v2/{path:.*}/blobs/uploads/", self._begin_upload)
        app.router.add_put("/v2/{path:.*}/blobs/uploads/{upload}", self._upload)
        app.router.add_patch("/v2/{path:.*}/blobs/uploads/{upload}", self._chunk)
        app.router.add_delete("/v2/{path:.*}/blobs/uploads/{upload}", self._cancel_upload)
        app.router.add_put("/v2/{path:.*}/manifests/{reference}", self._put_manifest)
        app.router.add_delete("/v2/{path:.*}/manifests/{reference}", self._delete_manifest)
        self._server = TestServer(app, host=host)

    async def __aenter__(self) -> Self:
        await self._server.start_server(ssl=self._tls)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        return str(self._server.make_url("")).rstrip("/")

    def add_blob(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        self.blobs[digest] = content
        return digest

    def add_manifest(self, repository: str, tag: str | None, body: bytes, media_type: str = OCI_MANIFEST) -> Digest:
        digest = Digest.of(body)
        for reference in filter(None, (tag, str(digest))):
            self.manifests[repository, reference] = (media_type, body)
        return digest

    def add_image(self, repository: str, tag: str, layer: bytes) -> Digest:
        """An image of one plain layer; the digest of its manifest."""
        config = json.dumps(
            {
                "os": "linux",
                "architecture": "amd64",
                "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))]},
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": str(self.add_blob(config)), "size": len(config)},
            "layers": [{"mediaType": OCI_LAYER, "digest": str(self.add_blob(layer)), "size": len(layer)}],
        }
        return self.add_manifest(repository, tag, json.dumps(manifest).encode())

    async def _token(self, request: web.Request) -> web.Response:
        self.requests["GET /token"] += 1
        sent = request.headers.get("Authorization")
        users = {user for users in self.readers.values() for user in users}
        user = next((user for user in users if sent == basic(user)), None)
        if self.readers and (sent is None or user is not None):
            self.tokens_given += 1
            return web.json_response({"token": f"token-of-{user}", "expires_in": self.token_life_seconds})
        if sent != basic():
            return web.Response(status=401)
        self.tokens_given += 1
        assert request.query["service"] == "test"
        return web.json_response({"token": TOKEN, "expires_in": self.token_life_seconds})

    async def _token_for_identity(self, request: web.Request) -> web.Response:
        self.requests["POST /token"] += 1
        form = await request.post()
        if form["grant_type"] != "refresh_token" or form["refresh_token"] != IDENTITY_TOKEN:
            return web.json_response({"error": "invalid_grant"}, status=400)
        self.tokens_given += 1
        assert form["service"] == "test"
        return web.json_response({"access_token": TOKEN, "expires_in": self.token_life_seconds})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests[f"{request.method} {request.path}"] += 1
        self.queries.append(dict(request.query))
        self.authorizations.add(request.headers.get("Authorization"))
        self.proxy_authorizations.add(request.headers.get("Proxy-Authorization"))
        if "Range" in request.headers:
            self.ranges.append(request.headers["Range"])
        if self.refuses_authorization and "Authorization" in request.headers:
            return web.Response(status=400)
        if self.statuses:
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return web.Response(status=self.statuses.pop(0), headers=headers)
        if self.fails_by_turns and sum(self.requests.values()) % 2:
            return web.Response(status=500)
        if (refusal := self._challenge(request)) is not None:
            return refusal
        path = request.match_info["path"]
        if path == "":
            return web.json_response({})
        name, _, rest = path.rpartition("/blobs/")
        if name and name == self.hidden_from:
            self.asked.set()
            await self.answer.wait()
            return web.Response(status=404)
        if name:
            return await self._blob(request, Digest.parse(rest))
        name, _, rest = path.rpartition("/manifests/")
        if name and (name, rest) in self.manifests:
            media_type, body = self.manifests[name, rest]
            if self.manifest_gate is not None:
                self.asked.set()
                await self.manifest_gate.wait()
            headers = {"Docker-Content-Digest": str(self.lies.get(rest) or Digest.of(body)), "Content-Type": media_type}
            return web.Response(body=body, headers=headers)
        if path.endswith("/tags/list") and self.tag_lists is not None:
            tags = self.tag_lists.get(path.removesuffix("/tags/list"))
            return web.json_response({"tags": tags}, status=200 if tags is not None else 404)
        if path.endswith("/tags/list"):
            link = f'</v2/{path}?last=b&n={request.query.get("n", "1")}>; rel="next"'
            is_last = "last" in request.query
            return web.json_response({"name": path, "tags": ["a", "b"]}, headers={} if is_last else {"Link": link})
        name, _, rest = path.rpartition("/referrers/")
        if name and self.referrers is not None:
            return self._referrers(request, self.referrers.get(Digest.parse(rest), []))
        return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)

    def _referrers(self, request: web.Request, entries: list[dict[str, object]]) -> web.Response:
        at = int(request.query.get("cursor", "0"))
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries[at : at + 1]}
        headers = {"Link": f'<{request.path}?cursor={at + 1}>; rel="next"'} if at + 1 < len(entries) else {}
        return web.Response(text=json.dumps(index), content_type=OCI_INDEX, headers=headers)

    async def _begin_upload(self, request: web.Request) -> web.Response:
        self.requests["POST uploads"] += 1
        if (refusal := self._challenge(request)) is not None:
            return refusal
        path, mounted = request.match_info["path"], request.query.get("mount")
        if mounted is not None and request.query["from"] in self.holders.get(Digest.parse(mounted), ()):
            self.holders[Digest.parse(mounted)].add(path)
            return web.Response(status=201)
        self.chunks = bytearray()
        return web.Response(status=202, headers={"Location": self._upload_at(path)})

    def _upload_at(self, path: str) -> str:
        return f"{self.uploads_at or ''}/v2/{path}/blobs/uploads/one?state=%2Fx"

    async def _chunk(self, request: web.Request) -> web.Response:
        self.requests["PATCH upload"] += 1
        if not self.takes_chunks:
            return web.Response(status=405)
        if self.chunks is None or not request.headers["Content-Range"].startswith(f"{len(self.chunks)}-"):
            return web.Response(status=416)
        if self.upload_cuts:
            part = await request.content.readexactly(self.upload_cuts.pop(0))
            self.chunks = self.chunks + part if self.keeps_uploads else None
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        self.chunks += await request.read()
        headers = {"Location": self._upload_at(request.match_info["path"]), "Range": f"0-{len(self.chunks) - 1}"}
        return web.Response(status=202, headers=headers)

    async def _upload_state(self, request: web.Request) -> web.Response:
        self.requests["GET upload"] += 1
        if self.chunks is None:
            return web.json_response({"errors": [{"code": "BLOB_UPLOAD_UNKNOWN"}]}, status=404)
        last = max(len(self.chunks) - 1, 0)
        headers = {"Location": self._upload_at(request.match_info["path"]), "Range": f"0-{last}"}
        return web.Response(status=204, headers=headers)

    async def _cancel_upload(self, request: web.Request) -> web.Response:
        self.requests["DELETE upload"] += 1
        self.chunks = None
        return web.Response(status=204)

    async def _delete_manifest(self, request: web.Request) -> web.Response:
        self.requests["DELETE manifest"] += 1
        name, reference = request.match_info["path"], request.match_info["reference"]
        if ":" not in reference and not self.deletes_tags:
            return web.json_response({"errors": [{"code": "UNSUPPORTED"}]}, status=405)
        if ":" not in reference:
            self.manifests.pop((name, reference), None)
            return web.Response(status=202)
        for key in [
            key for key, (_, body) in self.manifests.items() if key[0] == name and str(Digest.of(body)) == reference
        ]:
            del self.manifests[key]
        return web.Response(status=202)

    async def _upload(self, request: web.Request) -> web.Response:
        self.requests["PUT upload"] += 1
        self.upload_authorizations.append(request.headers.get("Authorization"))
        assert request.query["state"] == "/x"
        content = bytes(self.chunks or b"") + await request.read()
        if self.upload_statuses:
            return web.Response(status=self.upload_statuses.pop(0))
        digest = Digest.parse(request.query["digest"])
        if Digest.of(content) != digest:
            return web.json_response({"errors": [{"code": "DIGEST_INVALID", "message": "not its digest"}]}, status=400)
        self.blobs[digest] = content
        self.holders.setdefault(digest, set()).add(request.match_info["path"])
        return web.Response(status=201, headers={"Docker-Content-Digest": str(digest)})

    async def _put_manifest(self, request: web.Request) -> web.Response:
        self.requests["PUT manifest"] += 1
        if (refusal := self._challenge(request)) is not None:
            return refusal
        name, reference, body = request.match_info["path"], request.match_info["reference"], await request.read()
        tag = None if ":" in reference else reference
        digest = self.add_manifest(name, tag, body, request.headers["Content-Type"])
        return web.Response(status=201, headers={"Docker-Content-Digest": str(digest)})

    def _challenge(self, request: web.Request) -> web.Response | None:
        if self.auth is None or self._is_welcome(request):
            return None
        challenge = (
            'Basic realm="a, b"'
            if self.auth == "basic"
            else f'Bearer realm="{self.realm or f"{self.url}/token"}",service="test",scope="repository:any:pull"'
        )
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    def _is_welcome(self, request: web.Request) -> bool:
        sent = request.headers.get("Authorization")
        if not self.readers:
            return sent == (basic() if self.auth == "basic" else f"Bearer {TOKEN}")
        readers = self.readers.get(re.split("/(?:manifests|blobs|tags|referrers)/", request.match_info["path"])[0])
        if readers is None and self.auth == "basic":
            return sent is None or any(sent == basic(user) for users in self.readers.values() for user in users)
        if readers is None:
            return sent is not None and sent.startswith("Bearer token-of-")
        return any(sent == (basic(user) if self.auth == "basic" else f"Bearer token-of-{user}") for user in readers)

    async def _blob(self, request: web.Request, digest: Digest) -> web.StreamResponse:
        if self.redirect_to is not None:
            return web.Response(status=307, headers={"Location": f"{self.redirect_to}{request.path}?signature=%2Fx"})
        content = self.blobs.get(digest)
        repository = request.path.removeprefix("/v2/").rpartition("/blobs/")[0]
        if content is None or repository not in self.holders.get(digest, {repository}):
            return web.json_response({"errors": [{"code": "BLOB_UNKNOWN"}]}, status=404)
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(len(content))})
        self.blob_gets[digest] += 1
        if self.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        start = 0 if self.ignores_ranges else request.http_range.start or 0
        response = web.StreamResponse(status=206 if start else 200)
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        content = content[start:]
        response.content_length = len(content) + self.lie_bytes
        await response.prepare(request)
        if self.cuts:
            await response.write(content[: self.cuts.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return response
        while self.drops is not None and content:
            await response.write(content[:1])
            content = content[1:]
            await asyncio.sleep(self.drops)
        middle = len(content) // 2
        for part in (content[:middle], content[middle:]):
            await response.write(part)
            self.bytes_sent += len(part)
            if self.gate is not None:
                await self.gate.wait()
        if self.lie_bytes:
            assert request.transport is not None
            request.transport.close()
        return response


def basic(username: str = USERNAME, password: str = PASSWORD) -> str:
    """An ``Authorization``."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"
