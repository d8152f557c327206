"""The proof: a canary image that each configured runtime pulls through the mirror, gets unpacked by us, and runs."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from imagedist.agent.client import AgentClient, find_socket
from imagedist.agent.protocol import AgentStatus, PullRequest
from imagedist.config import Address
from imagedist.demo.image import GREETING, build
from imagedist.demo.registry import LayoutBackend, create_app
from imagedist.errors import ImagedistError, InputError, SourceError
from imagedist.oci.reference import Reference
from imagedist.overlay.store import OverlayStore
from imagedist.runtimes import RuntimeReport, Settings, survey
from imagedist.runtimes.presence import has_image
from imagedist.runtimes.trials import TRIALS, Answer, Canary
from imagedist.service import serving

REGISTRY = Address("127.0.0.1", 5055)
"""Where the home-made canary is served: an upstream of the site if the site is on this host."""

_SIZE_BYTES = 1_000_000
_ASK_SECONDS = 10.0
_MANIFESTS = re.compile(
    r'^imagedist_requests_total\{client="[^"]*",route="manifest",status="200"\} (\S+)$', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one runtime; ``-`` where there is nothing to say."""

    key: str
    mirror: Answer
    unpacked: Answer
    ran: Answer
    detail: str

    @property
    def is_good(self) -> bool:
        return "yes" in (self.mirror, self.unpacked) and "no" not in (self.mirror, self.unpacked, self.ran)


async def prove(settings: Settings, names: Sequence[str], image: str | None, socket: Path | None) -> list[Verdict]:
    """Tries the runtimes one after the other and removes the canary from each.

    Args:
        image: an image that the site serves and that has the program ``true``; None: a home-made one.

    Raises:
        InputError: no agent runs, nothing is configured, or the site does not serve the canary. SourceError.
    """
    found = find_socket(socket)
    if found is None:
        raise InputError("the proof needs this node's agent: start `imagedist agent --config agent.toml`")
    agent = AgentClient(found)
    status = await asyncio.to_thread(agent.status)
    reports = await asyncio.to_thread(survey, settings, names)
    if not reports:
        raise InputError("no runtime on this machine")
    async with _canary(agent, status, image) as canary:
        return [await judge(report, canary) for report in reports]


@contextlib.asynccontextmanager
async def _canary(agent: AgentClient, status: AgentStatus, image: str | None) -> AsyncIterator[Canary]:
    """The image, served until the context is left."""
    command: tuple[str, ...] = ("true",)
    says = ""
    async with contextlib.AsyncExitStack() as stack:
        if image is None:
            reference = await stack.enter_async_context(_home_made())
            command, says = (), GREETING  # its own command prints it
        else:
            reference = Reference.parse(image)
        try:
            prefix = await asyncio.to_thread(agent.prefix, reference.registry)
        except InputError as error:
            raise InputError(
                f"{error}; give one of its images (--canary REF), or make {REGISTRY} an upstream of the site's proxy"
            ) from error
        store = OverlayStore(Path(status.storage_root))
        was_there = _has(store, str(reference))

        def pull() -> None:
            agent.pull(PullRequest(reference=str(reference)), lambda event: None)

        def drop() -> None:
            if not was_there:
                with contextlib.suppress(ImagedistError):  # used, or never pulled
                    store.remove(store.find(str(reference)).id)

        yield Canary(reference, status.mirror, prefix, command, says, store.root, pull, drop)


@contextlib.asynccontextmanager
async def _home_made() -> AsyncIterator[Reference]:
    """A new image each time, so that nobody has it yet; served until the context is left."""
    name = f"imagedist/canary:{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory(prefix="imagedist-canary-") as directory:
        built = await asyncio.to_thread(build, Path(directory) / "image", size_bytes=_SIZE_BYTES, name=name)
        async with serving(create_app(LayoutBackend(built, name)), REGISTRY):
            yield Reference.parse(f"{REGISTRY}/{name}")


def _has(store: OverlayStore, name: str) -> bool:
    try:
        store.find(name)
    except ImagedistError:
        return False
    return True


async def judge(report: RuntimeReport, canary: Canary) -> Verdict:
    """One runtime's verdict. Raises SourceError: the mirror does not answer."""
    if not report.is_configured:
        reason = report.problem or f"not configured: `imagedist runtimes --apply {report.key}`"
        return Verdict(report.key, "-", "-", "-", reason)
    try:
        if await asyncio.to_thread(has_image, report.key, canary.name):
            detail = f"it has {canary.name} already, which is left as it is: give one that it does not have (--canary)"
            return Verdict(report.key, "-", "-", "-", detail)
    except ImagedistError as error:
        return Verdict(report.key, "-", "-", "no", str(error))
    before = await _manifests_given(canary.mirror)
    ran: Answer = "no"
    unpacked: Answer = "-"
    asks_mirror = True
    try:
        outcome = await asyncio.to_thread(TRIALS[report.key], canary)
    except ImagedistError as error:
        detail = str(error)
    else:
        detail, unpacked, asks_mirror = outcome.detail, outcome.unpacked, outcome.asks_mirror
        ran = "-" if outcome.ran is None else _answer(canary.says in outcome.ran)
    finally:  # the next one may take what is in our store for an image of its own
        await asyncio.to_thread(canary.drop)
    mirror = _answer(await _manifests_given(canary.mirror) > before) if asks_mirror else "-"
    return Verdict(report.key, mirror, unpacked, ran, detail)


def _answer(is_so: bool) -> Answer:
    return "yes" if is_so else "no"


async def _manifests_given(mirror: str) -> float:
    """How many manifests the mirror has given so far: a runtime that asked it shows there."""
    timeout = aiohttp.ClientTimeout(total=_ASK_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as http:
            async with http.get(f"http://{mirror}/metrics") as answer:
                found = _MANIFESTS.findall(await answer.text())
    except (aiohttp.ClientError, TimeoutError) as error:
        raise SourceError(f"the mirror {mirror} does not answer: {error or type(error).__name__}") from error
    return sum(map(float, found))
