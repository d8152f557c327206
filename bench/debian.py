"""The trees of an image from Debian packages: debootstrap for the base, unpacked packages above it, as in a Dockerfile.

No maintainer script of the upper layers runs, so nothing in them depends on the machine that builds.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagedist.errors import StorageError

SUITE = "bookworm"
_PROGRAMS = ("debootstrap", "apt-get", "dpkg-deb", "setpriv", "unshare")
_STEP_SECONDS = 1200
_MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
"""Top-level directories that are links into /usr in the base layer."""
_MADE_HERE = (
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "var/cache/ldconfig/aux-cache",
)
"""Files that differ by the machine and the moment of the installation."""
_EMPTIED = ("dev", "proc", "run", "sys", "tmp", "var/cache/apt", "var/lib/apt/lists", "var/log")


@dataclass(frozen=True, slots=True)
class Packages:
    """One layer: these packages, with what they depend on and no lower layer has, less ``without``."""

    name: str
    packages: tuple[str, ...]
    without: tuple[str, ...] = ()


def cannot() -> str | None:
    """Why this machine cannot build such trees; None when it can."""
    missing = [program for program in _PROGRAMS if not shutil.which(program, path=_search_path())]
    if missing:
        return f"{', '.join(missing)} not installed"
    if os.geteuid() != 0:
        return "debootstrap needs root"
    release = _release()
    return None if release == SUITE else f"apt of this machine is not {SUITE}'s but {release}'s"


def make_base(tree: Path, downloads: Path, made_at: int) -> None:
    """Bootstraps a minimal system without anything that tells where and when it was made.

    Args:
        downloads: keeps the packages for the next time.
        made_at: the time, in seconds since the epoch, that files of the installation's own say they were made at.

    Raises:
        StorageError: a step failed; names the step and its last words.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    # It mounts proc and sys in the tree: in a namespace of its own they go with it, even when it is killed.
    apart = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--kill-child"]
    bootstrap = ["debootstrap", "--variant=minbase", f"--cache-dir={downloads.absolute()}", SUITE, str(tree)]
    _run([*apart, "--fork", *bootstrap], env={"SOURCE_DATE_EPOCH": str(made_at)})
    for name in _MADE_HERE:
        (tree / name).unlink(missing_ok=True)
    for name in _EMPTIED:
        for path in (tree / name).iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def make_layers(base: Path, layers: Sequence[Packages], trees: Path, downloads: Path) -> list[tuple[str, Path]]:
    """Unpacks each layer's packages into ``trees/<name>``.

    Raises:
        StorageError: apt could not resolve or download a package, or one does not unpack.
    """
    taken: set[str] = set()
    made: list[tuple[str, Path]] = []
    for layer in layers:
        wanted = {
            package: archive
            for package, archive in _resolve(base, layer.packages).items()
            if package not in taken and package not in layer.without
        }
        taken |= wanted.keys()
        _download(base, wanted, downloads)
        tree = trees / layer.name
        for archive in sorted(wanted.values()):
            _run(["dpkg-deb", "--extract", str(downloads / archive), str(tree)])
        _merge_usr(tree)
        made.append((layer.name, tree))
    return made


def remove_tree(tree: Path) -> None:
    """Removes a tree, whatever the modes of its directories are."""
    _run(["rm", "--recursive", "--force", str(tree)])


def _resolve(base: Path, packages: Sequence[str]) -> dict[str, str]:
    """Package → file name of its archive, with everything it needs beyond the base, sorted."""
    simulate = ["install", "--yes", "--no-install-recommends", "--print-uris", *packages]
    lines = _run(["apt-get", "--quiet=2", *_as_in(base), *simulate]).splitlines()
    # 'URI' FILE SIZE HASH
    archives = [fields[1] for line in lines if line.startswith("'") and len(fields := line.split()) >= 3]
    return {archive.split("_")[0]: archive for archive in sorted(archives)}


def _download(base: Path, wanted: Mapping[str, str], downloads: Path) -> None:
    missing = [package for package, archive in wanted.items() if not (downloads / archive).exists()]
    if missing:
        _run(["apt-get", "--quiet=2", *_as_in(base), "download", *missing], cwd=downloads)


def _as_in(base: Path) -> list[str]:
    """apt's options to resolve against what the base has installed, not this machine."""
    return ["-o", f"Dir::State::status={base / 'var/lib/dpkg/status'}"]


def _merge_usr(tree: Path) -> None:
    """Puts ``lib/…`` of a package where the base's link leads; dpkg follows the link, a layer would replace it."""
    for name in _MERGED:
        if (tree / name).is_dir() and not (tree / name).is_symlink():
            (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
            # Beside what is there already: -n keeps the first of two files of one name.
            _run(["cp", "--archive", "--link", "--no-clobber", f"{tree / name}/.", str(tree / "usr" / name)])
            shutil.rmtree(tree / name)


def _release() -> str:
    try:
        return platform.freedesktop_os_release().get("VERSION_CODENAME", "unknown")
    except OSError:
        return "unknown"


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _run(command: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PATH": _search_path(), **(env or {})}
    try:
        done = subprocess.run(
            list(command), cwd=cwd, env=environment, capture_output=True, text=True, timeout=_STEP_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StorageError(f"cannot build the image from packages: {command[0]}: {error}") from error
    if done.returncode:
        said = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
        # debootstrap tells its progress where it tells its errors.
        reason = next((line for line in said if line.startswith(("E:", "W: Failure"))), said[-1])
        raise StorageError(f"cannot build the image from packages: {command[0]} failed: {reason}")
    return done.stdout
