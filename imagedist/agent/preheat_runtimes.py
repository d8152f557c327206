"""The node's runtimes as preheats meet them: one that hangs is given up after a time, and left alone for a while.

A hung dockerd answers no program of its own, and they wait for ever; each is killed at its bound. Until the runtime
has been left alone for a while its images count as not there, and nobody waits for it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from imagedist.errors import ImagedistError, SourceError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import Reference
from imagedist.runtimes import listing
from imagedist.runtimes.asking import HangError
from imagedist.runtimes.handover import Runtime, hand_over
from imagedist.threads import settled

_REST = 2
"""So many times its patience a runtime that hung is left alone."""
_PULL_PATIENCE = {"docker": 2, "containerd": 2, "podman": 20}
"""After so many questions in a row without an answer a pull is given up. podman has no daemon to answer: its programs
wait for each other while a layer is unpacked."""


class NodeRuntimes:
    """
    Args:
        address: of the agent's mirror, at which they find images.
        patience_seconds: what a runtime may take to answer.
        look_seconds: how often one that pulls is asked whether it still answers.
        clock: seconds; injected by tests.
    """

    def __init__(
        self,
        address: str,
        patience_seconds: float,
        look_seconds: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._patience_seconds = patience_seconds
        self._look_seconds = look_seconds
        self._clock = clock
        self._hung: dict[Runtime, tuple[float, HangError]] = {}

    async def listed(self, runtime: Runtime, reference: Reference) -> Digest | None:
        """By what digest it lists an image; None: it does not.

        Raises:
            InputError: it is not here. SourceError: it does not answer, or has not lately.
        """
        if runtime in self._hung:
            since, error = self._hung[runtime]
            rest_seconds = _REST * self._patience_seconds
            if self._clock() - since < rest_seconds:
                raise SourceError(f"{runtime} is left alone for {rest_seconds:g} s: {error}")
        return await self._asked(runtime, reference)

    async def keep(self, runtime: Runtime, reference: Reference, is_kept: bool) -> None:
        """Has its garbage collector leave an image alone, or not any more. Raises as ``listed``."""
        await settled(asyncio.to_thread(listing.keep, runtime, reference, is_kept, self._patience_seconds))

    async def bring(self, runtime: Runtime, reference: Reference, prefix: str) -> None:
        """Has it pull an image, for as long as it goes on answering meanwhile.

        Args:
            prefix: the registry's name at the site.

        Raises:
            InputError, SourceError: as ``hand_over``, or it does not answer any more.
        """
        await self.listed(runtime, reference)
        pulling = asyncio.create_task(hand_over(runtime, reference, self._address, prefix))
        unanswered = 0
        try:
            while not pulling.done():
                await asyncio.wait([pulling], timeout=self._look_seconds)
                if pulling.done():
                    break
                try:
                    await self._asked(runtime, reference)
                    unanswered = 0
                except HangError as error:
                    unanswered += 1
                    if unanswered >= _PULL_PATIENCE[runtime]:
                        raise SourceError(f"{runtime} does not answer while it pulls {reference}: {error}") from error
                except ImagedistError:
                    unanswered = 0  # it answered; the pull itself says what is wrong
        finally:
            if not pulling.done():
                pulling.cancel()
            await asyncio.wait([pulling])
        pulling.result()

    async def _asked(self, runtime: Runtime, reference: Reference) -> Digest | None:
        try:
            found = await settled(asyncio.to_thread(listing.listed, runtime, reference, self._patience_seconds))
        except HangError as error:
            self._hung[runtime] = (self._clock(), error)
            raise
        except ImagedistError:
            self._hung.pop(runtime, None)
            raise
        self._hung.pop(runtime, None)
        return found
