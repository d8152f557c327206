"""Handing an image over to a runtime: it pulls it through the agent, and calls it by its real name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from typing import Literal

from imagedist.errors import ImagedistError, InputError, SourceError
from imagedist.oci.reference import Reference
from imagedist.runtimes.asking import end
from imagedist.threads import settled

Runtime = Literal["docker", "podman", "containerd"]

_PULL_TIMEOUT_SECONDS = 3600
_TAG_TIMEOUT_SECONDS = 60
_END_SECONDS = 10


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
        await _run(pull, _PULL_TIMEOUT_SECONDS)
        await _run(tag, _TAG_TIMEOUT_SECONDS)
    except BaseException:
        with contextlib.suppress(ImagedistError):  # most often there is nothing to take away
            await settled(_run(untag, _END_SECONDS))
        raise
    await settled(_run(untag, _TAG_TIMEOUT_SECONDS))


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


async def _run(command: list[str], timeout_seconds: float) -> None:
    words = " ".join(command[:3])
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise InputError(f"{command[0]} is not installed on this machine") from error
    except OSError as error:
        raise SourceError(f"cannot run {command[0]}: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout_seconds):
            output, complaint = await process.communicate()
    except TimeoutError as error:
        raise SourceError(f"`{words}` did not finish within {timeout_seconds} s") from error
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
            end(process.pid)
            await process.wait()
