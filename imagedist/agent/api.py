"""The agent's Unix socket: the command line hands it the work and watches."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from imagedist import __version__
from imagedist.agent.events import Events
from imagedist.agent.limits import NodeLimits
from imagedist.agent.mirror import Mirror
from imagedist.agent.protocol import AgentStatus, Limits, LimitsOrder, PullRequest, Transfers
from imagedist.agent.source import NodeSource
from imagedist.config import AgentConfig
from imagedist.distribution.admission import Admission
from imagedist.errors import ChallengeError, ImagedistError, InputError, NotFoundError
from imagedist.fetch.node import NodeBlobs
from imagedist.metrics import PULL_SECONDS
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference
from imagedist.progress import Event, Observer
from imagedist.puller import Puller
from imagedist.site import Site
from imagedist.swarm.session import SwarmSession

_LOG = logging.getLogger(__name__)

_STATUS = TypeAdapter(AgentStatus)
_TRANSFERS = TypeAdapter(Transfers)
_ORDER = TypeAdapter(PullRequest)
_LIMITS = TypeAdapter(Limits)
_LIMITS_ORDER = TypeAdapter(LimitsOrder)

_PULLS = 8
"""Pulls at once; more only share the same workers and ramdisk."""
_QUEUED_PULLS = 64
_QUEUED_SECONDS = 3600.0


class SocketApi:
    """Handlers of the socket. One pull per request; a client that goes away cancels its pull."""

    def __init__(
        self,
        config: AgentConfig,
        mirror: str,
        backend: Mirror,
        site: Site,
        blobs: NodeBlobs,
        session: SwarmSession,
        puller: Puller,
        limits: NodeLimits,
    ) -> None:
        self._config = config
        self._backend = backend
        self._mirror = mirror
        self._site = site
        self._blobs = blobs
        self._session = session
        self._puller = puller
        self._limits = limits
        self._admission = Admission(_PULLS, _QUEUED_PULLS, _QUEUED_SECONDS)
        self._pulls = 0

    def create_app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/agent", self.status),
                web.get("/v1/transfers", self.transfers),
                web.get("/v1/prefix", self.prefix),
                web.post("/v1/pull", self.pull),
                web.get("/v1/limits", self.limits),
                web.patch("/v1/limits", self.change_limits),
            ]
        )
        return app

    async def status(self, request: web.Request) -> web.Response:
        status = AgentStatus(
            version=__version__,
            mirror=self._mirror,
            storage_root=str(self._config.storage.root),
            used_by=tuple(map(str, self._config.storage.used_by)),
            site_proxies=self._config.agent.site_proxies,
            site_seeders=self._config.agent.site_seeders,
            received_bytes=dict(self._blobs.received_bytes),
            bittorrent=str(self._config.agent.bittorrent),
            node_blobs=str(self._config.agent.node_blobs),
            ramdisk=str(self._config.unpack.ramdisk),
            site_ca_file=str(self._config.agent.site_ca_file or ""),
            site_client_certificate=str(self._config.agent.site_client_certificate or ""),
            site_client_key=str(self._config.agent.site_client_key or ""),
        )
        return web.json_response(body=_STATUS.dump_json(status))

    async def transfers(self, request: web.Request) -> web.Response:
        rows = tuple(transfer.status() for transfer in self._session.transfers())
        told = Transfers(
            transfers=rows,
            received_bytes=dict(self._blobs.received_bytes),
            is_quiet=self._limits.is_quiet,
            given_bytes=self._blobs.given_bytes,
        )
        return web.json_response(body=_TRANSFERS.dump_json(told))

    async def limits(self, request: web.Request) -> web.Response:
        return web.json_response(body=_LIMITS.dump_json(self._limits.status()))

    async def change_limits(self, request: web.Request) -> web.Response:
        try:
            order = _LIMITS_ORDER.validate_json(await request.read())
            self._limits.change(order)
        except ValidationError as error:
            return web.json_response({"message": f"malformed request: {error.errors()[0]['msg']}"}, status=400)
        except InputError as error:
            return web.json_response({"message": str(error)}, status=400)
        _LOG.info("limits changed: %s", order)
        return await self.limits(request)

    async def prefix(self, request: web.Request) -> web.Response:
        try:
            prefix = await self._site.prefix(request.query.get("registry", ""))
        except ImagedistError as error:
            return web.json_response({"message": str(error)}, status=404 if isinstance(error, NotFoundError) else 502)
        return web.json_response({"prefix": prefix})

    async def pull(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        events = Events()
        pulling = asyncio.create_task(self._pull(await request.read(), request.headers.get("Authorization"), events))
        try:
            while (event := await events.get()) is not None:
                await response.write(event.line().encode() + b"\n")
            await response.write_eof()
        except ConnectionResetError:
            _LOG.debug("the client of a pull went away")
        finally:
            pulling.cancel()
            await asyncio.wait([pulling])
        return response

    async def _pull(self, body: bytes, authorization: str | None, events: Events) -> None:
        before = dict(self._blobs.received_bytes)

        def observe(event: Event) -> None:
            if event.event == "done":
                PULL_SECONDS.observe(event.seconds or 0)
                now = self._blobs.received_bytes
                received = {source: count - before.get(source, 0) for source, count in now.items()}
                event = replace(event, received_bytes=received)
            events.put(event)

        try:
            order = _ORDER.validate_json(body)
            reference = Reference.parse(order.reference)
            platform = Platform.parse(order.platform) if order.platform else Platform.of_this_machine()
            await self._admitted(reference, platform, observe, authorization)
        except ValidationError as error:
            observe(_failed(InputError(f"malformed request: {error.errors()[0]['msg']}")))
        except ImagedistError as error:
            _LOG.warning("pull failed: %s", error)
            observe(_failed(error))
        except Exception as error:
            _LOG.exception("pull failed")
            observe(_failed(ImagedistError(f"the agent failed: {error!r}")))
        finally:
            events.end()

    async def _admitted(
        self, reference: Reference, platform: Platform, observe: Observer, authorization: str | None
    ) -> None:
        if self._pulls >= _PULLS:
            observe(
                Event(event="waiting", message=f"{reference} waits: this agent has {self._pulls} pulls to do first")
            )
        self._pulls += 1
        try:
            async with self._admission:
                source = NodeSource(self._backend, authorization) if authorization else None
                await self._puller.pull(reference, platform, observe, source)
        finally:
            self._pulls -= 1


def _failed(error: ImagedistError) -> Event:
    code = error.code if isinstance(error, ChallengeError) else None
    return Event(event="error", message=str(error), exit_code=error.exit_code, code=code)
