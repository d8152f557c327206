"""The ramdisk: whether it is one, and whether there is memory for it."""

from __future__ import annotations

import os
from pathlib import Path

from imagedist.config import AgentConfig
from imagedist.doctor.asking import in_thread
from imagedist.doctor.disk import existing_above, mount_point, size
from imagedist.doctor.finding import Finding
from imagedist.doctor.subject import Subject
from imagedist.engine import is_tmpfs
from imagedist.memory import available_bytes
from imagedist.privileges import is_machine_root


async def check(subject: Subject) -> list[Finding]:
    return await in_thread(lambda: examine(subject.ramdisk, subject.config, is_agents=subject.agent is not None))


def examine(path: Path, config: AgentConfig | None, *, is_agents: bool) -> list[Finding]:
    """Whether staged tars wait in memory, and whether there is enough of it."""
    budget_bytes = int(config.unpack.ramdisk_budget) if config else 0
    if not is_agents and is_machine_root() and config is not None and not os.path.ismount(path):
        findings = [Finding("ok", "ramdisk", f"ramdisk {path}: the agent mounts it when it starts")]
    else:
        try:
            findings = [_mounted(path)]
        except OSError as error:
            return [
                Finding("unknown", "ramdisk", f"ramdisk {path}: {error.strerror}", "it cannot be asked", f"df {path}")
            ]
    if budget_bytes > (available := available_bytes()):
        what = f"ramdisk_budget is {size(budget_bytes)}, and {size(available)} of memory are available"
        why = "the agent takes no more than half of what there is; layers that do not fit are staged on disk"
        findings.append(Finding("warn", "ramdisk-budget", what, why, 'a smaller ramdisk_budget in agent.toml ("1GiB")'))
    return findings


def _mounted(path: Path) -> Finding:
    sizes = os.statvfs(existing_above(path))
    free_bytes = sizes.f_bavail * sizes.f_frsize
    if not is_tmpfs(path):
        why = "layers are staged on a disk, which makes unpacking slower"
        fix = f"mkdir -p {path} && mount -t tmpfs -o size=4g,mode=700 tmpfs {path}"
        return Finding("warn", "ramdisk", f"ramdisk {path} is not on a tmpfs, so it is none", why, fix)
    if free_bytes < 1 << 30 and not os.path.ismount(path):
        why = "layers that do not fit are staged on disk"
        fix = f"mount -o remount,size=4g {mount_point(existing_above(path))}"
        return Finding("warn", "ramdisk", f"ramdisk {path}: only {size(free_bytes)} free", why, fix)
    return Finding("ok", "ramdisk", f"ramdisk {path}: {size(free_bytes)} free")
