"""Programs that the benchmark runs: daemons that cannot outlive it, clients that are timed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.account import Account
from imagedist.errors import ImagedistError

_READY_SECONDS = 60.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.02
RUN_SECONDS = 1200.0
"""The longest a client may take."""

_NOT_PASSED = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH")
"""A developer's settings; users have bytecode beside their modules."""


_BUILT_PEERS = Path(__file__).parents[1] / "build/peers/bin"


def search_path() -> str:
    """Debian's own programs first; daemons lie in sbin, which is not in every user's PATH. Last what peers.sh built."""
    return os.pathsep.join(["/usr/bin", "/usr/sbin", "/bin", "/sbin", os.environ.get("PATH", ""), str(_BUILT_PEERS)])


_PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "curl": "curl",
    "docker": "docker.io",
    "docker-registry": "docker-registry",
    "dockerd": "docker.io",
    "mkfs.ext4": "e2fsprogs",
    "nginx": "nginx",
    "podman": "podman",
    "redis-cli": "redis-tools",
    "redis-server": "redis-server",
    "runc": "runc",
    "skopeo": "skopeo",
    "umoci": "umoci",
    "wrk": "wrk",
}
"""Debian's, by program."""
BUILT = {
    "containerd-2": "containerd",
    "ctr-2": "containerd",
    "kraken-agent": "kraken",
    "kraken-build-index": "kraken",
    "kraken-origin": "kraken",
    "kraken-tracker": "kraken",
    "nerdctl": "nerdctl",
    "soci-snapshotter-grpc": "soci",
}
"""What ``deploy/peers.sh`` builds, by program: Debian has none of them."""


def missing(*programs: str) -> str | None:
    """Which of them this machine has not, and how to get them; None when it has all."""
    absent = [program for program in programs if not shutil.which(program, path=search_path())]
    if not absent:
        return None
    remedies = [
        f"{how} {' '.join(dict.fromkeys(names[program] for program in absent if program in names))}"
        for how, names in (("apt-get install", _PACKAGES), ("deploy/peers.sh", BUILT))
        if any(program in names for program in absent)
    ]
    return f"{', '.join(absent)} not installed" + (f" ({'; '.join(remedies)})" if remedies else "")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's own, as a user would have it, with no HTTP proxy in the way to loopback."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_PASSED and not name.lower().endswith("_proxy")
    }
    return {**kept, "PATH": search_path(), **(extra or {})}


def bound(command: Sequence[str]) -> list[str]:
    """The command that runs ``command`` and ends with us, whatever ends us (prctl(2), PR_SET_PDEATHSIG)."""
    return ["setpriv", "--pdeathsig", "KILL", "--", *command]


@contextmanager
def daemon(
    command: Sequence[str], log: Path, is_ready: Callable[[], bool], account: Account | None = None
) -> Iterator[int]:
    """Runs a daemon until the block ends; the process id, once it is ready.

    Raises:
        ImagedistError: it ended or was not ready in time; names the last line of its log.
    """
    argv = bound(command)
    with log.open("wb") as output:
        process = subprocess.Popen(
            account.enter(argv) if account else argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                last = (log.read_text(errors="replace").strip() or "no message").splitlines()[-1]
                raise ImagedistError(f"{Path(command[0]).name} did not start: {last[-300:]}")
            time.sleep(_POLL_SECONDS)
        yield process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def succeeds(command: Sequence[str]) -> bool:
    """Whether a client ends with 0, its output unseen."""
    done = subprocess.run(
        list(command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=RUN_SECONDS,
        check=False,
    )
    return done.returncode == 0


def run(command: Sequence[str], env: Mapping[str, str] | None = None, timeout_seconds: float = RUN_SECONDS) -> str:
    """Runs a program to its end and returns what it printed.

    Raises:
        ImagedistError: it failed or hung; names the last line it said.
    """
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment(env),
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ImagedistError(f"{Path(command[0]).name} did not end within {timeout_seconds:.0f} s") from error
    except OSError as error:
        raise ImagedistError(f"cannot run {command[0]}: {error.strerror or error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise ImagedistError(f"{' '.join(command[:3])} failed: {last[-300:]}")
    return done.stdout
