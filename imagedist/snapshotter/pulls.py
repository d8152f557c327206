"""Pulls that this node's agent does for containerd: one for each image, however many ask, and watched with patience."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from imagedist.agent.client import AgentClient
from imagedist.agent.protocol import PullRequest
from imagedist.errors import ImagedistError, SourceError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import Reference
from imagedist.progress import Event

_LOG = logging.getLogger(__name__)

_PULLS = 16
"""At a time; more are left to containerd. A thread each."""
_LATE_SECONDS = 60.0
"""containerd asks for one layer after the other: a pull that is done stays known until it has the last, or so long."""

Begin = Callable[[Reference], Callable[[str], None]]
"""Asked before each pull for what is to be told its image id when the agent has done it."""


class Pull:
    """One pull of one image, followed by a thread of its own.

    Args:
        agent: its socket. patience_seconds: without any progress. limit_seconds: in all.
    """

    def __init__(self, agent: Path, reference: Reference, patience_seconds: float, limit_seconds: float) -> None:
        self.reference = reference
        self._agent = AgentClient(agent)
        self._patience_seconds = patience_seconds
        self._deadline = time.monotonic() + limit_seconds
        self._changed = threading.Condition()
        self._moved_at = time.monotonic()
        self._steps = 0
        self._layers: tuple[Digest, ...] | None = None
        self._is_abandoned = False
        self._is_served = False
        self.image_id: str | None = None
        self.ended_at: float | None = None

    @property
    def is_over(self) -> bool:
        """Failed, or done and containerd has it all, or done long ago."""
        ended_at = self.ended_at
        if ended_at is None:
            return False
        return self.image_id is None or self._is_served or time.monotonic() - ended_at > _LATE_SECONDS

    def serve(self, layer: Digest) -> None:
        """containerd has this layer now, and those below it."""
        with self._changed:
            if self._layers is not None and self._layers[-1:] == (layer,):
                self._is_served = True

    def run(self, begin: Begin) -> None:
        """Pulls; returns when the agent has done it, or will not."""
        image_id = None
        try:
            done_with = begin(self.reference)
            order = PullRequest(reference=str(self.reference))
            # Who waits loses patience sooner. The connection may stay silent for longer: after its last layer the
            # agent still syncs the disk.
            done = self._agent.pull(order, self._observe, silence_seconds=max(_LATE_SECONDS, self._patience_seconds))
            image_id = done.image
            if image_id is not None:
                done_with(image_id)
        except ImagedistError as error:
            _LOG.info("the agent does not pull %s, containerd will: %s", self.reference, error)
        except Exception:
            _LOG.exception("the pull of %s by the agent failed", self.reference)
        finally:
            with self._changed:
                self.image_id = image_id
                self.ended_at = time.monotonic()
                self._steps += 1
                self._changed.notify_all()

    def _observe(self, event: Event) -> None:
        with self._changed:
            if self._is_abandoned or time.monotonic() > self._deadline:
                raise SourceError("nobody waits for it any more")  # which closes the connection, and the agent stops
            if event.event == "waiting":
                return  # in the agent's queue: no progress
            self._moved_at = time.monotonic()
            if event.event in ("resolved", "merged"):
                self._steps += 1
                if event.layers is not None:
                    self._layers = tuple(layer.digest for layer in event.layers)
            self._changed.notify_all()

    def wait_for(self, is_there: Callable[[], bool], layer: Digest | None, is_wanted: Callable[[], bool]) -> bool:
        """Waits until something is there.

        Args:
            is_there: asked after every layer. layer: must be one of the image, else the wait is vain.
            is_wanted: asked now and then; False: whoever asked has gone.

        Returns:
            Whether it is there; False: it will not be, or not soon enough. The agent then stops pulling.
        """
        while True:
            with self._changed:
                steps, has_ended, layers = self._steps, self.ended_at is not None, self._layers
            if is_there():
                return True
            if has_ended:
                return False
            if layers is not None and layer is not None and layer not in layers:
                _LOG.warning("%s has no layer %s: containerd's labels are wrong", self.reference, layer)
                return False
            with self._changed:
                while self._steps == steps and self.ended_at is None:
                    now = time.monotonic()
                    patient_until = min(self._moved_at + self._patience_seconds, self._deadline)
                    if now >= patient_until or not is_wanted():
                        self._is_abandoned = self._is_abandoned or now >= patient_until
                        return False
                    self._changed.wait(min(patient_until - now, 1.0))


class Pulls:
    """The pulls under way, by reference.

    Args:
        agent: its socket. begin: called by each pull's own thread.
    """

    def __init__(self, agent: Path, patience_seconds: float, limit_seconds: float, begin: Begin) -> None:
        self._agent = agent
        self._patience_seconds = patience_seconds
        self._limit_seconds = limit_seconds
        self._begin = begin
        self._lock = threading.Lock()
        self._pulls: dict[Reference, Pull] = {}

    def join(self, reference: Reference) -> Pull | None:
        """The pull of an image, begun if there is none. None: there are too many."""
        with self._lock:
            self._pulls = {key: pull for key, pull in self._pulls.items() if not pull.is_over}
            pull = self._pulls.get(reference)
            if pull is None:
                if sum(one.ended_at is None for one in self._pulls.values()) >= _PULLS:
                    _LOG.warning("%s is left to containerd: the agent has %d pulls to do", reference, _PULLS)
                    return None
                pull = Pull(self._agent, reference, self._patience_seconds, self._limit_seconds)
                self._pulls[reference] = pull
                # A daemon: the agent may say nothing for a minute, and we may be told to end.
                threading.Thread(target=pull.run, args=(self._begin,), name="pull", daemon=True).start()
            return pull

    def image_ids(self) -> set[str]:
        """Images pulled a moment ago, whose layers containerd may still ask for."""
        with self._lock:
            return {pull.image_id for pull in self._pulls.values() if pull.image_id is not None and not pull.is_over}

    def serve(self, layer: Digest) -> None:
        """containerd has this layer now, and those below it."""
        with self._lock:
            for pull in self._pulls.values():
                pull.serve(layer)
