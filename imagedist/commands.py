"""What `imagedist pull` does: by the agent, by this process, or by a runtime through the agent.

Imports nothing that a pull by the agent does without: a tenth of a second would be the longest part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagedist.agent.client import AgentClient, find_socket
from imagedist.agent.protocol import AgentStatus, PullRequest
from imagedist.errors import ChallengeError, InputError
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference
from imagedist.progress import Event
from imagedist.watching import watching

if TYPE_CHECKING:
    from imagedist.config import UnpackTable
    from imagedist.engine import UnpackPlan
    from imagedist.oci.tls import TlsFiles
    from imagedist.puller import Strategy
    from imagedist.runtimes import Runtime

__all__ = ["PullOrder", "find_socket", "pull", "pull_by_agent", "pull_into"]


@dataclass(frozen=True, slots=True)
class PullOrder:
    """A pull as the user asked for it.

    Attributes:
        platform, root: None: the agent's, or this machine's and the user's own.
        tls: files for HTTPS; whoever gives some means the registry or mirror itself, not the agent.
        unpack: how to unpack; None: nobody says, so an agent may do it its way.
    """

    reference: Reference
    platform: Platform | None
    root: Path | None
    via: str | None
    plain_http: bool
    tls: TlsFiles | None
    strategy: Strategy
    unpack: UnpackTable | UnpackPlan | None
    socket: Path | None


def pull(order: PullOrder, as_json: bool, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """Pulls into overlay storage.

    The agent does it when it owns the store that was asked for, and nobody says how to unpack. Otherwise this
    process does, through the agent's mirror if there is one, so that the bytes still come over the swarm.

    Args:
        run: runs a coroutine to its end.
    """
    via, root = order.via, order.root
    if order.socket is not None and via is None and not order.plain_http and order.tls is None:
        is_as_usual = order.strategy == "parallel" and order.unpack is None
        status = AgentClient(order.socket).status() if root is not None or not is_as_usual else None
        if status is None or (is_as_usual and root == Path(status.storage_root)):
            pull_by_agent(order.reference, order.platform, order.socket, as_json)
            return
        via, root = f"http://{status.mirror}", root or Path(status.storage_root)
    from imagedist import rootless, standalone
    from imagedist.engine import default_root

    root = root or default_root()
    unpack = order.unpack or standalone.unpack_plan({})  # the user's own ramdisk: inside, the user is root
    rootless.enter(root)  # while there are no threads: bars on a terminal have one
    with watching(as_json) as observe:
        standalone.pull(
            order.reference,
            order.platform or Platform.of_this_machine(),
            observe,
            run,
            root=root,
            via=via,
            plain_http=order.plain_http,
            tls=order.tls,
            strategy=order.strategy,
            unpack=unpack,
        )


def pull_by_agent(reference: Reference, platform: Platform | None, socket: Path, as_json: bool) -> None:
    """Has this node's agent pull into its own store.

    Args:
        platform: None: the agent's own machine's.
    """
    request = PullRequest(reference=str(reference), platform=str(platform) if platform else None)
    agent = AgentClient(socket)
    with watching(as_json) as observe:
        try:
            agent.pull(request, observe)
        except ChallengeError as error:
            agent.pull(request, observe, authorization=_login(reference, error))


def _login(reference: Reference, error: ChallengeError) -> str:
    """What ``docker login`` or ``podman login`` left for the registry. Raises the error: nothing."""
    from imagedist.oci.credentials import find_credentials

    credentials = find_credentials(reference.registry)
    if credentials is None:
        raise ChallengeError(f"{error}; no login for {reference.registry} is in Docker's or podman's files") from error
    return credentials.basic()


async def pull_into(order: PullOrder, runtime: Runtime, as_json: bool) -> None:
    """Makes a runtime pull it through the agent.

    Raises:
        InputError: no agent runs, or it was told to keep out.
    """
    import asyncio
    import time

    from imagedist.runtimes import hand_over

    if order.socket is None:
        raise InputError(f"--into {runtime} needs this node's agent: start `imagedist agent --config agent.toml`")
    agent = AgentClient(order.socket)
    status = await asyncio.to_thread(agent.status)
    prefix = await asyncio.to_thread(agent.prefix, order.reference.registry)
    with watching(as_json) as observe:
        observe(Event(event="note", message=f"{runtime} pulls {order.reference} through {status.mirror}"))
        started = time.monotonic()
        await hand_over(runtime, order.reference, status.mirror, prefix)
        received = _difference(await asyncio.to_thread(agent.status), status)
        observe(
            Event(
                event="done",
                reference=str(order.reference),
                seconds=round(time.monotonic() - started, 3),
                bytes=sum(received.values()),
                received_bytes=received,
            )
        )


def _difference(now: AgentStatus, before: AgentStatus) -> dict[str, int]:
    return {source: count - before.received_bytes.get(source, 0) for source, count in now.received_bytes.items()}
