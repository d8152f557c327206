"""The container runtimes of this machine: what each gets from us, honestly, and how to hand one an image."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imagedist.errors import ImagedistError, InputError, SourceError
from imagedist.oci.reference import Reference
from imagedist.threads import settled

Runtime = Literal["docker", "podman", "containerd"]

_ASK_TIMEOUT_SECONDS = 10
_PULL_TIMEOUT_SECONDS = 3600
_END_SECONDS = 10


@dataclass(frozen=True, slots=True)
class RuntimeReport:
    """One row: does it get P2P, does it get the parallel unpack, and how."""

    name: str
    version: str
    p2p: str
    parallel_unpack: str
    how: str
    is_configured: bool


def survey(mirror: str = "127.0.0.1:5050") -> list[RuntimeReport]:
    """Every runtime found on this machine. Asks the programs; changes nothing.

    Args:
        mirror: the agent's mirror address, looked for in the runtimes' configuration.
    """
    reports = (_docker(mirror), _containerd(mirror), _podman(mirror), _crio(mirror))
    return [report for report in reports if report is not None]


def _docker(mirror: str) -> RuntimeReport | None:
    if not shutil.which("docker"):
        return None
    answer = _ask("docker", "info", "--format", "{{json .}}")
    try:
        facts = json.loads(answer) if answer else {}
    except ValueError:
        facts = {}
    version = str(facts.get("ServerVersion") or "no daemon answers")
    uses_containerd_store = any("io.containerd.snapshotter" in str(pair) for pair in facts.get("DriverStatus") or [])
    is_configured = _mentions(Path("/etc/docker/daemon.json"), mirror) or _mentions_below(
        Path("/etc/docker/certs.d"), mirror
    )
    if uses_containerd_store:
        return RuntimeReport(
            "docker (containerd image store)",
            version,
            "yes, any registry",
            "not in this version: it needs a snapshotter",
            "hosts.toml in /etc/docker/certs.d",
            is_configured,
        )
    return RuntimeReport(
        f"docker ({facts.get('Driver') or 'overlay2'} graph driver)" if facts.get("ServerVersion") else "docker",
        version,
        "docker.io by registry-mirrors; others by `imagedist pull --into docker`",
        "no: Docker's graph driver unpacks by itself",
        "daemon.json: registry-mirrors",
        is_configured,
    )


def _containerd(mirror: str) -> RuntimeReport | None:
    if not shutil.which("containerd"):
        return None
    words = _ask("containerd", "--version").split()
    return RuntimeReport(
        "containerd / Kubernetes",
        words[2] if len(words) > 2 else "unknown",
        "yes, any registry",
        "not in this version: it needs a snapshotter",
        "hosts.toml in /etc/containerd/certs.d",
        _mentions_below(Path("/etc/containerd/certs.d"), mirror),
    )


def _podman(mirror: str) -> RuntimeReport | None:
    if not shutil.which("podman"):
        return None
    words = _ask("podman", "--version").split()
    return RuntimeReport(
        "podman",
        words[-1] if words else "unknown",
        "yes, registries listed in registries.conf",
        "yes: runs images of `imagedist pull` in place",
        "registries.conf; storage.conf: additionalimagestores",
        _containers_configured(mirror),
    )


def _crio(mirror: str) -> RuntimeReport | None:
    if not shutil.which("crio"):
        return None
    words = _ask("crio", "--version").split()
    return RuntimeReport(
        "CRI-O",
        words[2] if len(words) > 2 else "unknown",
        "yes, registries listed in registries.conf",
        "yes: runs images of `imagedist pull` in place",
        "registries.conf; storage.conf: additionalimagestores",
        _containers_configured(mirror),
    )


def _containers_configured(mirror: str) -> bool:
    return _mentions(Path("/etc/containers/registries.conf"), mirror) or _mentions_below(
        Path("/etc/containers/registries.conf.d"), mirror
    )


def _mentions(path: Path, text: str) -> bool:
    try:
        return text in path.read_text()
    except (OSError, UnicodeDecodeError):
        return False


def _mentions_below(folder: Path, text: str) -> bool:
    return folder.is_dir() and any(_mentions(path, text) for path in sorted(folder.rglob("*"))[:1000])


def _ask(*command: str) -> str:
    """What a program prints, or nothing: a runtime that does not answer is not an error here."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


async def hand_over(runtime: Runtime, reference: Reference, mirror: str, prefix: str) -> None:
    """Makes a runtime pull an image through the agent, under the agent's address, and gives it its real name.

    Docker's ``registry-mirrors`` covers docker.io only; this way its graph driver gets images of any
    registry over the swarm. Docker trusts plain HTTP on 127.0.0.0/8.

    Args:
        mirror: ``host:port`` of the agent's mirror.
        prefix: the upstream's name at the site's proxy, the first component of the path.

    Cancelled or failed, it ends the runtime's program and leaves no image under the agent's address.

    Raises:
        InputError: the reference has no tag, or the runtime is not installed. SourceError: a step failed.
    """
    if reference.tag is None or reference.digest is not None:
        raise InputError(f"--into {runtime} needs a reference with a tag and no digest, got {reference}")
    ours = f"{mirror}/{prefix}/{reference.repository}:{reference.tag}"
    real = f"{reference.name}:{reference.tag}"
    pull, tag, untag = _steps(runtime, ours, real)
    try:
        await _run(pull)
        await _run(tag)
    except BaseException:
        with contextlib.suppress(ImagedistError):  # most often there is nothing to take away
            await settled(_run(untag))
        raise
    await settled(_run(untag))


def _steps(runtime: Runtime, ours: str, real: str) -> list[list[str]]:
    if runtime == "docker":
        return [["docker", "pull", ours], ["docker", "tag", ours, real], ["docker", "rmi", ours]]
    if runtime == "podman":
        return [
            ["podman", "pull", "--tls-verify=false", ours],
            ["podman", "tag", ours, real],
            ["podman", "untag", ours, ours],
        ]
    ctr = ["ctr", "--namespace", os.environ.get("CONTAINERD_NAMESPACE", "k8s.io"), "images"]
    return [[*ctr, "pull", "--plain-http", ours], [*ctr, "tag", "--force", ours, real], [*ctr, "rm", ours]]


async def _run(command: list[str]) -> None:
    words = " ".join(command[:3])
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise InputError(f"{command[0]} is not installed on this machine") from error
    except OSError as error:
        raise SourceError(f"cannot run {command[0]}: {error.strerror}") from error
    try:
        async with asyncio.timeout(_PULL_TIMEOUT_SECONDS):
            output, complaint = await process.communicate()
    except TimeoutError as error:
        raise SourceError(f"`{words}` did not finish within {_PULL_TIMEOUT_SECONDS} s") from error
    finally:
        await settled(_end(process))
    if process.returncode:
        lines = (complaint.strip() or output.strip() or b"no message").decode(errors="replace").splitlines()
        raise SourceError(f"`{words}` failed: {lines[-1]}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Asks a program that still runs to end, then makes it."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
