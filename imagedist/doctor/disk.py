"""Where the node writes: room, inodes, a writable file system, quotas that fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from imagedist.config import AgentConfig
from imagedist.doctor.asking import in_thread
from imagedist.doctor.finding import Finding, Severity
from imagedist.doctor.subject import BLOB_CACHE, Subject
from imagedist.store.files import is_open_to_others

LITTLE_BYTES = 5 << 30
HARDLY_ANY_BYTES = 256 << 20
_FEW_INODES = 100_000
"""A large image has 50,000 files."""
_HARDLY_ANY_INODES = 1_000

Statvfs = Callable[[Path], os.statvfs_result]


async def check(subject: Subject) -> list[Finding]:
    return await in_thread(_all, subject)


def _all(subject: Subject) -> list[Finding]:
    findings = [finding for name, path in subject.paths.items() for finding in room(name, path)]
    if (blobs := subject.paths.get(BLOB_CACHE)) is not None:
        findings += open_to_others(blobs)
    findings += quotas(subject.config) if subject.config else []
    return findings


def room(name: str, path: Path, statvfs: Statvfs = os.statvfs) -> list[Finding]:
    """Whether a directory can be written, and how much fits into its file system."""
    existing = existing_above(path)
    try:
        sizes = statvfs(existing)
    except OSError as error:
        return [
            Finding(
                "unknown",
                "disk-unknown",
                f"{name} {path}: {error.strerror}",
                "its disk cannot be asked",
                f"df {existing}; a dead network mount: umount -l",
            )
        ]
    if sizes.f_flag & os.ST_RDONLY:
        why = "nothing can be pulled into it"
        return [
            Finding(
                "bad",
                "disk-read-only",
                f"{name} {path} is on a file system that is mounted read-only",
                why,
                f"mount -o remount,rw {mount_point(existing)}; dmesg says why the kernel made it so",
            )
        ]
    if not os.access(existing, os.W_OK):
        if os.geteuid() != 0:
            why = "whether it can be written is not ours to say"
            return [
                Finding(
                    "unknown",
                    "disk-unwritable",
                    f"{name} {path}: {existing} is not writable for you",
                    why,
                    "sudo imagedist doctor",
                )
            ]
        return [
            Finding(
                "bad",
                "disk-unwritable",
                f"{name} {path}: {existing} is not writable",
                "nothing can be pulled",
                f"ls -ld {existing}; lsattr -d {existing}",
            )
        ]
    return [_bytes(name, path, sizes), *_inodes(name, path, sizes)]


def _bytes(name: str, path: Path, sizes: os.statvfs_result) -> Finding:
    free_bytes = sizes.f_bavail * sizes.f_frsize
    what = f"{name} {path}: {size(free_bytes)} free of {size(sizes.f_blocks * sizes.f_frsize)}"
    if free_bytes >= LITTLE_BYTES:
        return Finding("ok", "disk-space", what)
    why = "a pull of a large image ends in 'no space left on device'"
    return Finding(
        "bad" if free_bytes < HARDLY_ANY_BYTES else "warn",
        "disk-space",
        what,
        why,
        f"{_less(name, sizes)}, or move it to a larger disk",
    )


def _less(name: str, sizes: os.statvfs_result) -> str:
    """What makes a store smaller: ``gc`` is for images only."""
    half = half_of(sizes.f_blocks * sizes.f_frsize)
    if name == BLOB_CACHE:
        return f'a lower node_blobs_quota in agent.toml, such as "{half}", and systemctl restart imagedist-agent'
    return f"imagedist gc --quota {half}"


def half_of(total_bytes: int) -> str:
    return f"{total_bytes // 2 >> 30}GiB" if total_bytes >= 2 << 30 else f"{total_bytes // 2 >> 20}MiB"


def _inodes(name: str, path: Path, sizes: os.statvfs_result) -> list[Finding]:
    """Some file systems (btrfs) count none: then there is nothing to say."""
    if not sizes.f_files or sizes.f_favail >= _FEW_INODES:
        return []
    severity: Severity = "bad" if sizes.f_favail < _HARDLY_ANY_INODES else "warn"
    what = f"{name} {path}: {sizes.f_favail} inodes free of {sizes.f_files}"
    why = "a large image has 50,000 files: the disk is full with room left"
    fix = f"{_less(name, sizes)}, or make it anew: mkfs.ext4 -i 4096"
    return [Finding(severity, "disk-inodes", what, why, fix)]


def open_to_others(blobs: Path) -> list[Finding]:
    """A cache of blobs as earlier versions made it: whoever has an account here reads private images."""
    try:
        if not is_open_to_others(blobs):
            return []
    except OSError:
        return []  # not made yet, or ``room`` says so
    what = f"blob cache {blobs} is open to every user of this machine"
    why = "blobs of private images can be read by who may not pull them"
    return [Finding("warn", "blobs-open", what, why, f"chmod 750 {blobs}")]


def quotas(config: AgentConfig) -> list[Finding]:
    """A quota above its disk's size is none."""
    findings = []
    limits = (
        ("agent.node_blobs_quota", config.agent.node_blobs, int(config.agent.node_blobs_quota)),
        ("storage.quota", config.storage.root, int(config.storage.quota or 0)),
    )
    for key, path, quota_bytes in limits:
        try:
            sizes = os.statvfs(existing_above(path))
        except OSError:
            continue  # ``room`` says so
        total_bytes = sizes.f_blocks * sizes.f_frsize
        if quota_bytes > total_bytes:
            what = f"{key} is {size(quota_bytes)}, and the disk of {path} holds {size(total_bytes)}"
            why = "the disk is full before the quota makes room"
            fix = f'{key.partition(".")[2]} = "{half_of(total_bytes)}" in agent.toml'
            findings.append(Finding("warn", "quota-too-large", what, why, fix))
    return findings


def existing_above(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if os.path.lexists(parent))


def mount_point(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if os.path.ismount(parent))


def size(count: int) -> str:
    return f"{count >> 30} GiB" if count >= 10 << 30 else f"{count >> 20} MiB"
