"""Which files of this machine go into the demonstration image, in an order that never changes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from imagedist.errors import StorageError

_USR = "/usr"
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Top-level directories that are links into /usr on most distributions of today."""
_LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages", "test"})
_FILE_LIMIT_BYTES = 32 << 20
"""Larger files would make one layer far larger than the others."""
_LIBRARY = re.compile(r"(/\S+) \(0x[0-9a-f]+\)")


class Source(NamedTuple):
    """A file or symbolic link of this machine and its name in the image."""

    path: str
    name: str
    size_bytes: int


def merged_links() -> dict[str, str]:
    """The image's top-level symbolic links, as this machine has them: ``bin`` → ``usr/bin``."""
    return {name: os.readlink(f"/{name}").lstrip("/") for name in _MERGED if os.path.islink(f"/{name}")}


def programs(names: Sequence[str]) -> list[Source]:
    """Programs with the shared libraries and the loader they need, each as a file of its own.

    Raises:
        StorageError: a program is not on this machine.
    """
    found: dict[str, Source] = {}
    for name in names:
        path = shutil.which(name, path="/bin:/usr/bin")
        if path is None:
            raise StorageError(f"cannot build the demo image: this machine has no {name} in /bin or /usr/bin")
        for file in (path, *_libraries(path)):
            # Where the directory leads, with the last component kept: a program may be a link to busybox or dash.
            place = os.path.join(os.path.realpath(os.path.dirname(file)), os.path.basename(file))
            found.setdefault(place, Source(place, place.lstrip("/"), os.stat(place).st_size))
    return [found[place] for place in sorted(found)]


def _libraries(program: str) -> list[str]:
    """Asks the dynamic linker; a static program has none, and then ldd fails."""
    answer = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return sorted(set(_LIBRARY.findall(answer.stdout)))


def python_files() -> list[Source]:
    """The standard library of the running Python; outside /usr it is put under ``opt/python``."""
    library = sysconfig.get_path("stdlib")
    is_of_usr = library.startswith(f"{_USR}/")
    return list(_walk(library, library.lstrip("/") if is_of_usr else f"opt/python/{os.path.basename(library)}"))


def usr_files() -> list[Source]:
    """Everything below /usr but the running Python's standard library."""
    library = sysconfig.get_path("stdlib") + "/"
    return [source for source in _walk(_USR, _USR.lstrip("/")) if not source.path.startswith(library)]


def environment_files() -> list[Source]:
    """The packages of the running virtual environment: enough to fill an image on a very small machine."""
    return list(_walk(sysconfig.get_path("purelib"), "opt/packages"))


def _walk(directory: str, name: str) -> Iterator[Source]:
    """Files and symbolic links below a directory, sorted at each level, each named below ``name``."""
    try:
        with os.scandir(directory) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        return  # unreadable, or removed since it was listed
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _LEFT_OUT:
                yield from _walk(entry.path, f"{name}/{entry.name}")
        elif entry.is_symlink():
            yield Source(entry.path, f"{name}/{entry.name}", 0)
        elif entry.is_file(follow_symlinks=False):
            try:
                size_bytes = entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue  # removed since it was listed
            if size_bytes <= _FILE_LIMIT_BYTES:
                yield Source(entry.path, f"{name}/{entry.name}", size_bytes)
