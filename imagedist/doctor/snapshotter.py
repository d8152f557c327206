"""containerd's snapshotter: whether it listens, and agrees with the store about what each snapshot stands for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from imagedist.doctor.asking import ASK_SECONDS, in_thread
from imagedist.doctor.finding import Finding
from imagedist.doctor.runtimes import settings_of
from imagedist.doctor.subject import Subject
from imagedist.errors import ImagedistError
from imagedist.runtimes import Settings
from imagedist.runtimes.survey import found, has_snapshotter
from imagedist.snapshotter.check import problems


async def check(subject: Subject) -> list[Finding]:
    if subject.config is None or subject.config.snapshotter is None:
        return []
    socket = subject.config.snapshotter.socket
    depending = await in_thread(dependents, settings_of(subject))
    return [await listens(socket, depending), *await in_thread(snapshots, subject.root)]


def dependents(settings: Settings) -> list[str]:
    """The runtimes that can start nothing without it."""
    return [runtime.key for runtime in found(settings) if has_snapshotter(runtime)]


async def listens(socket: Path, depending: Sequence[str]) -> Finding:
    """
    Args:
        depending: runtimes whose files name it; without any, nobody misses it yet.
    """
    try:
        async with asyncio.timeout(ASK_SECONDS):
            _, writer = await asyncio.open_unix_connection(str(socket))
    except PermissionError:
        return Finding("unknown", "snapshotter", f"snapshotter at {socket}: only root may", "", "sudo imagedist doctor")
    except (OSError, TimeoutError) as error:
        cause = getattr(error, "strerror", None) or type(error).__name__
        what = f"nobody listens at {socket} ({cause.lower()})"
        fix = "systemctl start imagedist-snapshotter.socket"
        if not depending:
            why = "agent.toml has [snapshotter], but no runtime here uses it: containerd unpacks by itself"
            return Finding("warn", "snapshotter", what, why, f"{fix}, then imagedist runtimes --apply")
        why = f"{' and '.join(depending)} wait for it: no image can be pulled and no container started"
        return Finding("bad", "snapshotter", what, why, fix)
    writer.close()
    return Finding("ok", "snapshotter", f"the snapshotter listens at {socket}")


def snapshots(root: Path) -> list[Finding]:
    """Whether all snapshots are whole."""
    try:
        count, broken = problems(root)
    except ImagedistError as error:
        if os.geteuid() != 0:
            return [Finding("unknown", "snapshots", str(error), "the store is root's", "sudo imagedist doctor")]
        fix = "journalctl -u imagedist-snapshotter says since when"
        return [Finding("bad", "snapshots", str(error), "containerd's images cannot be used", fix)]
    why = "a container of that image does not start"
    lines = [line.partition("; ") for line in broken]
    return [Finding("bad", "snapshots", what, why, fix) for what, _, fix in lines] or [
        Finding("ok", "snapshots", f"{count} snapshots, each with its directory or layer")
    ]
