"""Docker's credential helpers: ``docker-credential-NAME get``, asked by standard input, answering by standard output.

Source: the protocol as docker-credential-helpers' own documentation states it. No shell is involved.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress

from imagedist.errors import InputError, SourceError
from imagedist.oci.auth import Credentials
from imagedist.oci.fields import Fields, MalformedError

HELPER_SECONDS = 30.0
"""Some ask a cloud's API first."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LIMIT_BYTES = 1 << 20
_NOT_FOUND = "credentials not found"
_IDENTITY_TOKEN = "<token>"


class MissingHelperError(InputError):
    """Named in a file, but not installed."""


def ask_helper(
    name: str, server: str, environment: Mapping[str, str], *, timeout_seconds: float = HELPER_SECONDS
) -> Credentials | None:
    """The credentials that a helper has for a server; None: it has none. Blocking, bounded in time.

    Args:
        name: without ``docker-credential-``.
        environment: its own; ``PATH`` is where it is looked for.

    Raises:
        MissingHelperError: there is no such program. SourceError: it failed, or sent nonsense.
    """
    program = f"docker-credential-{name}"
    path = shutil.which(program, path=environment.get("PATH", os.defpath)) if _NAME.fullmatch(name) else None
    if path is None:
        raise MissingHelperError(f"{program} is not in PATH: install it, or take it out of Docker's config.json")
    try:
        process = subprocess.Popen(
            [os.path.abspath(path), "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            start_new_session=True,
        )
    except OSError as error:
        raise SourceError(f"{program} cannot be run: {error.strerror}") from error
    try:
        with process:
            try:
                answer, _ = process.communicate(server.encode(), timeout_seconds)
            except BaseException:
                with suppress(ProcessLookupError):  # with whatever it has started
                    os.killpg(process.pid, signal.SIGKILL)
                raise
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"{program} has not answered for {server} in {timeout_seconds:g} s") from error
    if process.returncode != 0:
        said = answer[:300].decode(errors="replace").strip()
        if _NOT_FOUND in said.lower():
            return None
        raise SourceError(f"{program} failed for {server}: {said or f'status {process.returncode}'}")
    try:
        fields = Fields.parse(answer[:_LIMIT_BYTES])
        username, secret = fields.text("Username"), fields.text("Secret")
    except MalformedError as error:
        raise SourceError(f"{program} sent nonsense for {server}: {error}") from error
    if not secret:
        return None
    if username == _IDENTITY_TOKEN:
        return Credentials("", "", identity_token=secret)
    return Credentials(username, secret)
