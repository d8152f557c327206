"""The machine itself: privileges, overlayfs, the compiled unpacking, how many files may be open."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

from imagedist import rootless
from imagedist.doctor.finding import Finding
from imagedist.doctor.subject import Subject
from imagedist.unpack import extension

FEW_FILES = 4096
"""Each peer, client and open blob takes a descriptor; 50 peers on 50 torrents are 2,500."""

_HARD_LIMIT = re.compile(r"^Max open files\s+\S+\s+(\S+)", re.MULTILINE)


async def check(subject: Subject) -> list[Finding]:
    return [privileges(), overlay(Path("/proc/filesystems")), compiled(), open_files(subject.agent_process)]


def privileges() -> Finding:
    if os.geteuid() == 0:
        return Finding("ok", "privileges", "root: ownership and devices are kept, images can be mounted")
    obstacle = rootless.why_not()
    if obstacle is None:
        return Finding("ok", "privileges", "not root: ownership is kept in your user namespace, devices are left out")
    why = "unpacked files will belong to you, whatever their layers say"
    return Finding("warn", "privileges", f"not root, and {obstacle}", why, "sudo imagedist doctor")


def overlay(file_systems: Path) -> Finding:
    try:
        known = file_systems.read_text()
    except OSError:
        known = ""
    if "overlay" in known:
        return Finding("ok", "overlay", "the kernel has overlayfs")
    why = "containers cannot run from the image store, and images cannot be mounted"
    return Finding("warn", "overlay", "overlayfs is not loaded", why, "modprobe overlay")


def compiled() -> Finding:
    if extension.compiled is not None:
        return Finding("ok", "compiled", "unpacking in C is compiled in")
    fix = "apt-get install gcc python3-dev && pip install --force-reinstall imagedist"
    return Finding("warn", "compiled", "unpacking in C is not compiled in", "unpacking takes twice the CPU", fix)


def open_files(process: int | None, proc: Path = Path("/proc")) -> Finding:
    """The hard limit of the agent, which raises its own to it; without an agent that of whoever asks."""
    whose = "the agent" if process is not None else "this shell"
    try:
        found = _HARD_LIMIT.search((proc / str(process) / "limits").read_text()) if process is not None else None
    except OSError:
        found = None
    if found is None:
        whose, limit = "this shell", resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    else:
        limit = resource.RLIM_INFINITY if found[1] == "unlimited" else int(found[1])
    if limit == resource.RLIM_INFINITY or limit >= FEW_FILES:
        return Finding("ok", "open-files", f"{whose} may open {'any number of' if limit < 0 else limit} files")
    why = "each peer, client and open blob takes one: pulls fail with 'too many open files' when the site is busy"
    fix = "set LimitNOFILE=65536 in the agent's unit (systemctl edit imagedist-agent), or `ulimit -Hn 65536`"
    return Finding("warn", "open-files", f"{whose} may open {limit} files only", why, fix)
