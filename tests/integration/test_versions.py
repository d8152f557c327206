"""A node and its site one version apart, and a store that a newer version wrote: pulls go on."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from imagedist.config import Address
from imagedist.service import ServerTls
from imagedist.store.blobs import BlobStore
from tests.integration.test_site import BUILT, check_tree, pull
from tests.support.site import REGISTRY, Site

LATER = {"later": {"nested": [1, 2]}, "format": 2}


@web.middleware
async def one_version_ahead(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers of ``/site`` have fields that nobody knows yet, a higher format, and an action of the future."""
    response = await handler(request)
    if isinstance(response, web.Response) and response.content_type == "application/json" and "/site/" in request.path:
        document = json.loads(response.body)  # type: ignore[arg-type]
        if isinstance(document, dict):
            document |= LATER
            if document.get("action") == "stream":
                document["action"] = "stream-from-the-nearest"
            response.body = json.dumps(document).encode()
    return response


class NewerSite(Site):
    async def _serve(
        self, stack: AsyncExitStack, app: web.Application, tls: ServerTls | None = None, port: int = 0
    ) -> Address:
        app.middlewares.insert(0, one_version_ahead)
        return await super()._serve(stack, app, tls, port)


async def test_nodes_pull_from_a_site_that_is_one_version_ahead(tmp_path: Path) -> None:
    async with NewerSite(tmp_path) as site:
        site.put(BUILT, "team/app", "1")
        async with site.agent() as (first, _, first_store), site.agent() as (second, _, second_store):
            await pull(first)
            await pull(second)
            check_tree(first_store)
            check_tree(second_store)
            assert await asyncio.to_thread(first.prefix, "registry.local:5000") == REGISTRY


async def test_pulls_go_on_while_the_site_is_upgraded_and_rolled_back(tmp_path: Path) -> None:
    """Every record in the store is one that a newer minor version would write."""
    async with Site(tmp_path) as site:
        site.put(BUILT, "team/app", "1")
        async with site.agent() as (client, _, store):
            await pull(client)
            check_tree(store)
    root = tmp_path / "site"
    (root / "format").write_text('{"version": "1.9", "later": true}')
    (root / "later").mkdir()
    (root / "later" / "file").write_bytes(b"of a newer version")
    for path in root.rglob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **LATER}))
    store = BlobStore(root)
    assert store.used_bytes == sum(
        path.stat().st_size for path in root.rglob("*") if path.is_file() and path.parent != root
    )
    async with Site(tmp_path / "again", site_blobs=str(root)) as site:
        async with site.agent() as (client, _, node_store):
            await pull(client)
            check_tree(node_store)
        assert site.upstream.blob_gets.total() == 0  # nothing was lost
