"""What `imagedist pull` does: by the agent, through a mirror, or straight from a registry."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from imagedist.agent.client import AgentClient, find_socket
from imagedist.agent.protocol import AgentStatus, PullRequest, Transfers
from imagedist.config import StorageTable, UnpackTable, parse_size
from imagedist.engine import default_ramdisk, default_root, opened
from imagedist.errors import InputError
from imagedist.fetch.registry import RegistrySource
from imagedist.oci.manifest import Platform
from imagedist.oci.reference import Reference
from imagedist.progress import Event, Observer
from imagedist.puller import Puller, Strategy
from imagedist.render import watching
from imagedist.runtimes import Runtime, hand_over

__all__ = ["PullOrder", "find_socket", "pull", "pull_into", "transfers"]


@dataclass(frozen=True, slots=True)
class PullOrder:
    """A pull as the user asked for it."""

    reference: Reference
    platform: Platform
    root: Path | None
    via: str | None
    plain_http: bool
    strategy: Strategy
    ramdisk: Path | None
    ramdisk_budget: str
    workers: int | None
    socket: Path | None


async def pull(order: PullOrder, as_json: bool) -> None:
    """Pulls into overlay storage.

    The agent does it when it owns the store that was asked for, and nobody says how to unpack. Otherwise this
    process does, through the agent's mirror if there is one, so that the bytes still come over the swarm.
    """
    with watching(as_json) as observe:
        if order.socket is None or order.via or order.plain_http:
            await _pull_here(order, order.via, order.root or default_root(), observe)
            return
        async with AgentClient(order.socket) as agent:
            status = await agent.status()
            root = (order.root or Path(status.storage_root)).absolute()
            is_as_usual = order.strategy == "parallel" and order.workers is None and order.ramdisk is None
            if is_as_usual and root == Path(status.storage_root):
                request = PullRequest(reference=str(order.reference), platform=str(order.platform))
                await agent.pull(request, observe)
                return
        await _pull_here(order, f"http://{status.mirror}", root, observe)


async def _pull_here(order: PullOrder, via: str | None, root: Path, observe: Observer) -> None:
    storage = StorageTable(root=root)
    unpack = UnpackTable.model_validate(
        {
            "ramdisk": order.ramdisk or default_ramdisk(),
            "ramdisk_budget": parse_size(order.ramdisk_budget),
            "workers": order.workers,
            "nice": 0,
        }
    )
    source = RegistrySource(order.reference, via, plain_http=order.plain_http)
    try:
        with opened(storage, unpack) as engine:
            puller = Puller(source, engine.store, engine.ramdisk, engine.workers, strategy=order.strategy)
            try:
                await puller.pull(order.reference, order.platform, observe)
            finally:
                puller.close()
    finally:
        await source.close()


async def transfers(socket: Path) -> Transfers:
    """The torrents of this node's agent. Raises SourceError: it does not answer."""
    async with AgentClient(socket) as agent:
        return Transfers(transfers=await agent.transfers())


async def pull_into(order: PullOrder, runtime: Runtime, as_json: bool) -> None:
    """Makes a runtime pull it through the agent.

    Raises:
        InputError: no agent runs, or it was told to keep out.
    """
    if order.socket is None:
        raise InputError(f"--into {runtime} needs this node's agent: start `imagedist agent --config agent.toml`")
    async with AgentClient(order.socket) as agent:
        status = await agent.status()
        prefix = await agent.prefix(order.reference.registry)
        before = status.received_bytes
        with watching(as_json) as observe:
            observe(Event(event="note", message=f"{runtime} pulls {order.reference} through {status.mirror}"))
            loop = asyncio.get_running_loop()
            started = loop.time()
            await hand_over(runtime, order.reference, status.mirror, prefix)
            received = _difference(await agent.status(), before)
            observe(
                Event(
                    event="done",
                    reference=str(order.reference),
                    seconds=round(loop.time() - started, 3),
                    bytes=sum(received.values()),
                    received_bytes=received,
                )
            )


def _difference(now: AgentStatus, before: dict[str, int]) -> dict[str, int]:
    return {source: count - before.get(source, 0) for source, count in now.received_bytes.items()}
