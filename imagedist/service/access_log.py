"""The access log: one line per request, as JSON or as text. Written by a thread, so that a slow reader stops nobody."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import threading
from collections.abc import Mapping
from datetime import UTC, datetime

from imagedist.config.values import AccessLog as Form
from imagedist.metrics import LOG_LINES_DROPPED

_FLUSH_SECONDS = 0.2
_MAX_LINES = 20_000
"""Waiting for a reader; 5 MB. Further ones are dropped, and counted."""
_ATOMIC_BYTES = 4096
"""PIPE_BUF: a write of so much is not mixed with those of other workers."""
_CLOSE_SECONDS = 2.0

Fields = Mapping[str, str | int | float]


as_json = json.JSONEncoder(separators=(",", ":")).encode
_encode = json.JSONEncoder().encode
_PLAIN = re.compile(r"[!#-<>-~]+")
"""Text that needs no quotes."""


def as_text(fields: Fields) -> str:
    """``time address "agent" METHOD route …`` as ``key=value``; empty ones are left out."""
    return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items() if value != "")


def _quoted(value: str | int | float) -> str:
    if not isinstance(value, str):
        return str(value)
    return value if _PLAIN.fullmatch(value) else _encode(value)


class AccessLog:
    """Lines to a file descriptor. Used on one event loop; ``close`` it."""

    def __init__(self, form: Form, descriptor: int = 1) -> None:
        self._render = as_json if form == "json" else as_text
        self._descriptor = descriptor
        self._lines: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._chunks: queue.Queue[list[str] | None] = queue.Queue(maxsize=2)
        self._second = (0, "")
        self._thread = threading.Thread(target=self._write, name="access log", daemon=True)
        self._thread.start()

    def write(self, epoch_seconds: float, fields: Fields) -> None:
        """One line; the time comes first."""
        if len(self._lines) >= _MAX_LINES:
            LOG_LINES_DROPPED.inc()
            return
        self._lines.append(self._render({"time": self._stamp(epoch_seconds), **fields}))
        if self._timer is None:
            self._timer = self._loop.call_later(_FLUSH_SECONDS, self._flush)

    async def close(self) -> None:
        """Writes what is left, if its reader takes it within a moment."""
        if self._timer is not None:
            self._timer.cancel()

        def finish() -> None:
            try:
                if self._lines:
                    self._chunks.put(self._lines, timeout=_CLOSE_SECONDS)
                self._chunks.put(None, timeout=_CLOSE_SECONDS)
            except queue.Full:
                return
            self._thread.join(_CLOSE_SECONDS)

        await asyncio.to_thread(finish)

    def _flush(self) -> None:
        try:
            self._chunks.put_nowait(self._lines)
        except queue.Full:
            self._timer = self._loop.call_later(_FLUSH_SECONDS, self._flush)
        else:
            self._lines, self._timer = [], None

    def _stamp(self, epoch_seconds: float) -> str:
        second = int(epoch_seconds)
        if second != self._second[0]:
            self._second = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second[1]}.{int((epoch_seconds - second) * 1000):03d}Z"

    def _write(self) -> None:
        while (lines := self._chunks.get()) is not None:
            for chunk in _atomic(lines):
                try:
                    while chunk:
                        chunk = chunk[os.write(self._descriptor, chunk) :]
                except OSError:  # nobody reads any more
                    LOG_LINES_DROPPED.inc(chunk.count(b"\n"))


def _atomic(lines: list[str]) -> list[bytes]:
    """Whole lines, as many at a time as one write may hold."""
    chunks: list[bytes] = []
    held: list[bytes] = []
    size_bytes = 0
    for line in lines:
        encoded = line.encode() + b"\n"
        if held and size_bytes + len(encoded) > _ATOMIC_BYTES:
            chunks.append(b"".join(held))
            held, size_bytes = [], 0
        held.append(encoded)
        size_bytes += len(encoded)
    if held:
        chunks.append(b"".join(held))
    return chunks
