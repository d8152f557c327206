"""containerd's snapshotter: whether it listens, and agrees with the store about what each snapshot stands for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from imagedist.doctor.asking import ASK_SECONDS, in_thread
from imagedist.doctor.finding import Finding
from imagedist.doctor.subject import Subject
from imagedist.errors import ImagedistError
from imagedist.snapshotter.check import problems


async def check(subject: Subject) -> list[Finding]:
    if subject.config is None or subject.config.snapshotter is None:
        return []
    socket = subject.config.snapshotter.socket
    return [await listens(socket), *await in_thread(snapshots, subject.root)]


async def listens(socket: Path) -> Finding:
    try:
        async with asyncio.timeout(ASK_SECONDS):
            _, writer = await asyncio.open_unix_connection(str(socket))
    except PermissionError:
        return Finding("unknown", "snapshotter", f"snapshotter at {socket}: only root may", "", "sudo imagedist doctor")
    except (OSError, TimeoutError) as error:
        cause = getattr(error, "strerror", None) or type(error).__name__
        why = "containerd waits for it: no image can be pulled and no container started by it"
        fix = "systemctl start imagedist-snapshotter.socket"
        return Finding("bad", "snapshotter", f"nobody listens at {socket} ({cause.lower()})", why, fix)
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
