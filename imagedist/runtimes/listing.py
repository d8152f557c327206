"""What a runtime lists, asked by its own programs; and asking it to keep an image, where it can."""

from __future__ import annotations

import os

from imagedist.errors import SourceError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import Reference
from imagedist.runtimes.asking import run
from imagedist.runtimes.handover import Runtime

ANSWER_SECONDS = 30.0
"""What a runtime may take to answer."""
_UNKNOWN = ("no such image", "not known", "no such object", "not found")
PINNED_LABEL = "io.cri-containerd.pinned"
"""Kubelet's garbage collector leaves such images alone (containerd 1.7 and later; harmless before)."""


def listed(runtime: Runtime, reference: Reference, timeout_seconds: float = ANSWER_SECONDS) -> Digest | None:
    """By what digest a runtime lists an image: that of its config, its manifest or its index. None: it does not.

    Raises:
        InputError: the runtime is not installed. SourceError: it answers with an error. HangError: with nothing.
    """
    name = f"{reference.name}:{reference.tag}"
    if runtime == "containerd":
        lines = run([*_ctr(), "ls", f"name=={name}"], timeout_seconds).splitlines()[1:]
        fields = next((line.split() for line in lines if line.startswith(f"{name} ")), None)
        return Digest.parse(fields[2]) if fields and len(fields) > 2 else None
    try:
        found = run([runtime, "image", "inspect", "--format", "{{.Id}}", name], timeout_seconds)
    except SourceError as error:
        if is_unknown(error):
            return None
        raise
    return Digest.parse(found if ":" in found else f"sha256:{found}")


def is_unknown(error: SourceError) -> bool:
    """Whether a program's complaint is that there is no such image."""
    return any(word in str(error).lower() for word in _UNKNOWN)


def keep(runtime: Runtime, reference: Reference, is_kept: bool, timeout_seconds: float = ANSWER_SECONDS) -> None:
    """Has a runtime's garbage collector leave an image alone, or not any more. Only containerd has a way to say so.

    Raises:
        InputError, SourceError: as ``listed``.
    """
    if runtime == "containerd":
        label = f"{PINNED_LABEL}={'pinned' if is_kept else ''}"
        run([*_ctr(), "label", f"{reference.name}:{reference.tag}", label], timeout_seconds)


def _ctr() -> list[str]:
    return ["ctr", "--namespace", os.environ.get("CONTAINERD_NAMESPACE", "k8s.io"), "images"]
