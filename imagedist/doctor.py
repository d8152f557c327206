"""What is wrong here, and what to do about it: this machine, its agent, the site behind it, its runtimes."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket as sockets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from imagedist import rootless
from imagedist.agent.client import AgentClient, find_socket
from imagedist.config import AgentConfig, load
from imagedist.engine import default_ramdisk, default_root, is_tmpfs
from imagedist.errors import ImagedistError, InputError
from imagedist.privileges import is_machine_root
from imagedist.runtimes import Settings, survey
from imagedist.snapshotter.check import problems
from imagedist.unpack import extension

_ASK_SECONDS = 5.0
_LITTLE_BYTES = 5 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. ``warn`` works, but not as well as it could; ``bad`` does not."""

    verdict: Literal["ok", "warn", "bad"]
    what: str
    detail: str = ""


async def examine(config: Path | None, socket: Path | None) -> list[Finding]:
    """Everything from the machine outwards; a canary goes through every hop and says which one answered.

    Raises:
        ConfigError: the configuration to check is wrong.
    """
    loaded = load(config, AgentConfig) if config else None
    root = loaded.storage.root if loaded else default_root()
    ramdisk = loaded.unpack.ramdisk if loaded else default_ramdisk()
    findings = [_privileges(), _overlay(), _extension(), _ramdisk(ramdisk, is_agents=loaded is not None), _disk(root)]
    proxies: tuple[str, ...] = loaded.agent.site_proxies if loaded else ()
    seeders: tuple[str, ...] = loaded.agent.site_seeders if loaded else ()
    mirror = str(loaded.agent.listen) if loaded else "127.0.0.1:5050"
    found, missing = _socket(socket or (loaded.agent.socket if loaded else None))
    if missing:
        findings.append(missing)
    elif found is None:
        findings.append(Finding("warn", "agent", "none runs; `imagedist pull` works without, but without the swarm"))
    else:
        try:
            status = await asyncio.to_thread(AgentClient(found).status)
        except ImagedistError as error:
            findings.append(Finding("bad", f"agent at {found}", str(error)))
        else:
            findings.append(Finding("ok", f"agent {status.version}", f"stores images in {status.storage_root}"))
            proxies, seeders, mirror = status.site_proxies, status.site_seeders, status.mirror
            findings.append(await _hop("canary: mirror", f"http://{mirror}/v2/"))
    if loaded is not None and loaded.snapshotter is not None:
        findings += await asyncio.to_thread(_snapshots, loaded.snapshotter.socket, root)
    for url in proxies:
        findings.append(await _hop("canary: site proxy", f"{url}/readyz"))
    for url in seeders:
        findings.append(await _hop("canary: site seeder", f"{url}/readyz"))
    findings += await asyncio.to_thread(_runtimes, mirror)
    return findings


def _socket(named: Path | None) -> tuple[Path | None, Finding | None]:
    try:
        return find_socket(named), None
    except InputError as error:
        return None, Finding("bad", "agent", str(error))


def _privileges() -> Finding:
    if os.geteuid() == 0:
        return Finding("ok", "privileges", "root: ownership and devices are kept, images can be mounted")
    obstacle = rootless.why_not()
    if obstacle is None:
        return Finding("ok", "privileges", "not root: ownership is kept in your user namespace, devices are left out")
    return Finding("warn", "privileges", f"not root: unpacked files will belong to you, as {obstacle}")


def _overlay() -> Finding:
    try:
        known = Path("/proc/filesystems").read_text()
    except OSError:
        known = ""
    if "overlay" in known:
        return Finding("ok", "overlay file system")
    return Finding("warn", "overlay file system", "not loaded: `modprobe overlay` before containers run from the store")


def _extension() -> Finding:
    if extension.compiled is not None:
        return Finding("ok", "unpacking in C", "compiled in")
    return Finding(
        "warn",
        "unpacking in C",
        "not compiled in, so unpacking takes more CPU: install gcc and python3-dev, then imagedist again",
    )


def _ramdisk(path: Path, is_agents: bool) -> Finding:
    if is_agents and is_machine_root() and not os.path.ismount(path):
        return Finding("ok", f"ramdisk {path}", "the agent mounts it when it starts")
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if not is_tmpfs(path):
        return Finding("warn", f"ramdisk {path}", "not on a tmpfs, so it is no ramdisk: mount one there")
    if free < 1 << 30:
        return Finding(
            "warn", f"ramdisk {path}", f"only {free >> 20} MiB free: larger layers are staged on disk; give it more"
        )
    return Finding("ok", f"ramdisk {path}", f"{free >> 20} MiB free")


def _disk(root: Path) -> Finding:
    existing = next(parent for parent in (root, *root.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return Finding("bad", f"store {root}", f"{existing} is not writable: run as root or give --root")
    if free < _LITTLE_BYTES:
        return Finding("warn", f"store {root}", f"only {free >> 20} MiB free on its disk")
    return Finding("ok", f"store {root}", f"{free >> 30} GiB free")


def _snapshots(socket: Path, root: Path) -> list[Finding]:
    """Whether the snapshotter listens, and all of its snapshots are whole."""
    with sockets.socket(sockets.AF_UNIX) as probe:
        probe.settimeout(_ASK_SECONDS)
        try:
            probe.connect(str(socket))
        except OSError as error:
            why = error.strerror or type(error).__name__
            return [Finding("bad", f"snapshotter at {socket}", f"does not listen ({why}): containerd waits for it")]
    try:
        count, broken = problems(root)
    except ImagedistError as error:
        return [Finding("bad", "snapshots", str(error))]
    return [Finding("bad", "snapshots", line) for line in broken] or [
        Finding("ok", f"snapshotter at {socket}", f"{count} snapshots, each with its directory or layer")
    ]


async def _hop(what: str, url: str) -> Finding:
    try:
        async with httpx.AsyncClient(timeout=_ASK_SECONDS, trust_env=False) as http:
            answer = await http.get(url)
    except httpx.HTTPError as error:
        return Finding("bad", f"{what} {url}", f"does not answer ({error or type(error).__name__}); is it running?")
    if answer.status_code == 200:
        return Finding("ok", f"{what} {url}")
    return Finding("bad", f"{what} {url}", f"HTTP {answer.status_code}: {answer.text.strip()[:200]}")


def _runtimes(mirror: str) -> list[Finding]:
    return [
        Finding("ok", report.name, f"uses the mirror {mirror}")
        if report.is_configured
        else Finding("warn", report.name, f"not configured yet: `imagedist runtimes {report.key}` says what it needs")
        for report in survey(Settings(mirror=mirror))
    ]
