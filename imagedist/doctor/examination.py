"""All checks at once, each within its time: nothing that hangs, and no check that fails itself, hides the others."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from imagedist.config import AgentConfig, load
from imagedist.doctor import canary, disk, machine, ramdisk, runtimes, site, snapshotter, swarm
from imagedist.doctor.finding import Finding
from imagedist.doctor.subject import Subject, learn

USUAL_CONFIG = Path("/etc/imagedist/agent.toml")
CHECK_SECONDS = 15.0
"""The longest that the examination takes, but for the second in which the agent is asked."""

_BY_HAND = "docker info; podman version; df: the one that hangs as well is it"
_REPORT = "imagedist doctor --json, and report it"

_LOG = logging.getLogger(__name__)

Check = Callable[[Subject], Awaitable[list[Finding]]]

CHECKS: dict[str, Check] = {
    "machine": machine.check,
    "disk": disk.check,
    "ramdisk": ramdisk.check,
    "runtimes": runtimes.check,
    "mirror": canary.check,
    "site": site.check,
    "swarm": swarm.check,
    "snapshotter": snapshotter.check,
}


async def examine(config: Path | None, socket: Path | None) -> list[Finding]:
    """Everything from the machine outwards, in the order of ``CHECKS``.

    Args:
        config: the node's agent.toml; None: the one at the usual place, if it is there.

    Raises:
        ConfigError: the configuration to check is wrong.
    """
    unread = []
    path = config or (USUAL_CONFIG if USUAL_CONFIG.exists() else None)
    if config is None and path is not None and not os.access(path, os.R_OK):
        why = "what it says about disks, quotas and the site's token is not checked"
        unread = [Finding("unknown", "config-unread", f"{path} is not for this user", why, "sudo imagedist doctor")]
        path = None
    subject, findings = await learn(load(path, AgentConfig) if path else None, socket)
    findings = unread + findings
    for found in await asyncio.gather(*(_within_time(name, check, subject) for name, check in CHECKS.items())):
        findings += found
    return findings


async def _within_time(name: str, check: Check, subject: Subject) -> list[Finding]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check(subject)
    except TimeoutError:
        why = "something that it asked hangs: a runtime's daemon, or a dead network file system"
        return [Finding("unknown", "check-timeout", f"{name}: not done within {CHECK_SECONDS:.0f} s", why, _BY_HAND)]
    except Exception as error:
        _LOG.debug("the check %s failed", name, exc_info=True)
        return [
            Finding(
                "unknown", "check-failed", f"{name}: {type(error).__name__}: {error}", "a fault of imagedist", _REPORT
            )
        ]
