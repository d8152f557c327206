"""``hosts.toml``, by which containerd and whoever uses it are pointed at a mirror (containerd docs/hosts.md)."""

from __future__ import annotations

import json
import re
from pathlib import Path

from imagedist.runtimes.documents import check_toml, read_toml, value_at
from imagedist.runtimes.report import Edit

_HEAD = """\
# By `imagedist runtimes --apply`: every registry is asked through this node's agent first. Without a "server" line,
# whoever reads this goes to the registry itself when the agent does not answer.

"""
_TABLE_LINE = re.compile(r"^[ \t]*\[", re.MULTILINE)


def hosts_edits(directory: Path, mirror: str) -> tuple[Edit, ...]:
    """The files of one ``certs.d``.

    ``_default`` is read only for a registry without a directory of its own, so those that are there get our table as
    well.
    """
    default = directory / "_default/hosts.toml"
    own = sorted(path for path in directory.glob("*/hosts.toml") if path != default)
    return tuple(Edit(path, lambda text: with_host(text, mirror)) for path in (default, *own))


def with_host(text: str, mirror: str) -> str:
    """A ``hosts.toml`` whose first host is the mirror: hosts are tried in the order of the file.

    Raises:
        ConfigError: not TOML, or of a form that cannot be edited.
    """
    url = f"http://{mirror}"
    capabilities = ["pull", "resolve"]
    before = read_toml(text)
    if value_at(before, ("host", url)) is not None:
        return text
    table = f'[host."{url}"]\n  capabilities = {json.dumps(capabilities)}\n'
    first = _TABLE_LINE.search(text)
    if first is None:
        separator = "" if not text or text.endswith("\n") else "\n"
        after = f"{text}{separator}\n{table}" if text.strip() else _HEAD + table
    else:
        after = f"{text[: first.start()]}{table}\n{text[first.start() :]}"
    check_toml(after, {**before, "host": {**before.get("host", {}), url: {"capabilities": capabilities}}})
    return after
