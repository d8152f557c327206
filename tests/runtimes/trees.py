"""A node's tree below a temporary directory, and every file of it as it is: content, mode, owner, inode, time."""

from __future__ import annotations

import os
from pathlib import Path

from imagedist.runtimes.settings import Settings

DEBIANS_CONTAINERD = """\
version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"""


def settings(root: Path) -> Settings:
    return Settings(root=root)


def put(root: Path, path: str, text: str, mode: int = 0o644) -> Path:
    """A file of the tree; its directories are made."""
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything below ``etc`` and ``usr``, and what imagedist itself keeps: path → what it is."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        if path.is_dir():
            found[str(path)] = (status.st_mode, status.st_uid, status.st_gid)
        elif path.name != "runtimes.lock":
            owner = (status.st_mode, status.st_uid, status.st_gid, status.st_ino, status.st_mtime_ns)
            found[str(path)] = (*owner, os.readlink(path) if path.is_symlink() else path.read_bytes())
    return found


def program(directory: Path, name: str, says: str) -> None:
    """A program that prints one thing, whatever it is asked."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{says}\nEND\n")
    path.chmod(0o755)
