"""The runtimes: is each pointed at the mirror by its files, and does it heed them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from imagedist.config import Address
from imagedist.doctor import asking
from imagedist.doctor.asking import in_thread
from imagedist.doctor.finding import Finding
from imagedist.doctor.subject import Subject
from imagedist.errors import ImagedistError
from imagedist.runtimes import RuntimeReport, Settings
from imagedist.runtimes.asking import ask
from imagedist.runtimes.report import Found
from imagedist.runtimes.survey import found, report

_WHY = "it pulls from the registry itself: slow for this node, and a load that the site is there to carry"
_DAEMONS = {"containerd": "containerd", "crio": "crio", "k3s": "k3s-server", "rke2": "rke2"}
"""Runtimes that read their own file at their start only → the name of their process."""


_CLIENTS = {"docker": "docker", "podman": "podman", "crio": "cri-o"}
"""How the agent's metrics call them; the others ask as containerd."""

_ASKED = re.compile(r'^imagedist_requests_total\{client="([^"]+)",.*\} (\S+)$', re.MULTILINE)


async def check(subject: Subject) -> list[Finding]:
    return await in_thread(_all, settings_of(subject), await askers(subject.mirror) if subject.agent else None)


async def askers(mirror: Address) -> Counter[str] | None:
    """Kind of client → its requests since the agent's start. None: it does not say."""
    try:
        heard = await asking.ask(f"http://{mirror}/metrics")
    except ImagedistError:
        return None
    counts: Counter[str] = Counter()
    for client, count in _ASKED.findall(heard.body.decode(errors="replace")):
        counts[client] += round(float(count))
    return counts


def settings_of(subject: Subject) -> Settings:
    """What the runtimes' files should say on this node."""
    snapshotter = subject.config.snapshotter if subject.config else None
    usual = Settings()
    return Settings(
        mirror=str(subject.mirror), store=subject.root, socket=snapshotter.socket if snapshotter else usual.socket
    )


def _all(settings: Settings, asked: Mapping[str, int] | None) -> list[Finding]:
    return [finding for one in found(settings) for finding in examine(one, report(one), settings, asked)]


def examine(
    runtime: Found,
    said: RuntimeReport,
    settings: Settings,
    asked: Mapping[str, int] | None,
    started: Callable[[str], float | None] | None = None,
) -> list[Finding]:
    """One runtime of this machine.

    Args:
        asked: what ``askers`` says.
        started: a process's name → when the eldest of that name started, seconds since the epoch.
    """
    if said.problem is not None:
        fix = f"imagedist runtimes {said.key}"
        return [Finding("warn", "runtime-problem", f"{said.name}: {said.problem}", _WHY, fix)]
    if not said.is_configured:
        files = ", ".join(said.changes)
        what = f"{said.name} is not pointed at the mirror {settings.mirror}: {files} would have to say so"
        return [Finding("warn", "runtime-unconfigured", what, _WHY, f"imagedist runtimes --apply {said.key}")]
    unheeded = docker_heeds(settings, ask) if said.key == "docker" else _unread(runtime, said, started or started_at)
    if unheeded:
        return unheeded
    findings = [Finding("ok", "runtime", f"{said.name} {said.version} is pointed at the mirror {settings.mirror}")]
    if asked is not None and not asked.get(_CLIENTS.get(said.key, "containerd")):
        why = "its files are right; whether it heeds them shows with its next pull, or with a proof"
        what = f"{said.name} has asked the mirror nothing since the agent's start"
        findings.append(Finding("unknown", "runtime-unproven", what, why, f"imagedist runtimes --prove {said.key}"))
    return findings


def docker_heeds(settings: Settings, ask: Callable[..., str]) -> list[Finding]:
    """What dockerd itself says that it uses, whatever its file says."""
    told = ask("docker", "info", "--format", "{{json .RegistryConfig.Mirrors}}")
    try:
        mirrors = [str(mirror).rstrip("/") for mirror in json.loads(told) or []]
    except ValueError:
        return []  # no daemon runs, or it is not ours to ask
    if f"http://{settings.mirror}" in mirrors:
        return []
    what = f"dockerd does not use the mirror {settings.mirror} that its daemon.json names: it uses {mirrors or 'none'}"
    return [Finding("bad", "runtime-unheeded", what, _WHY, "systemctl reload docker")]


def _unread(runtime: Found, said: RuntimeReport, started: Callable[[str], float | None]) -> list[Finding]:
    """A file that is newer than the daemon that reads it at its start. hosts.toml is read at every pull."""
    since = started(_DAEMONS.get(said.key, ""))
    if since is None:
        return []
    newer = [path for path in _read_at_start(runtime) if _changed_at(path) > since]
    if not newer:
        return []
    what = f"{said.name} has not read {', '.join(map(str, newer))}, which changed after its start"
    return [Finding("bad", "runtime-unheeded", what, _WHY, " ".join(runtime.restart))]


def _read_at_start(runtime: Found) -> Sequence[Path]:
    return [edit.path for edit in runtime.edits if edit.path.name != "hosts.toml"]


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return float("-inf")


def started_at(name: str, proc: Path = Path("/proc")) -> float | None:
    """From proc(5): field 22 of ``stat`` in clock ticks since boot, and the boot's time."""
    if not name:
        return None
    boot = next(int(line.split()[1]) for line in (proc / "stat").read_text().splitlines() if line.startswith("btime "))
    starts = []
    for entry in proc.glob("[0-9]*"):
        try:
            if (entry / "comm").read_text().strip() == name:
                ticks = int((entry / "stat").read_text().rpartition(")")[2].split()[19])
                starts.append(boot + ticks / os.sysconf("SC_CLK_TCK"))
        except (OSError, ValueError):
            continue
    return min(starts, default=None)
