"""Many tags that have not changed: how long two sites, and a site and its registry, take to find that out.

The databases are as they are after a sync of all of them: filled by the seeder's own rooms, not by days of work.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.request import Request, urlopen

import sqlalchemy as sa

from bench.in_turn import Say
from bench.processes import daemon
from bench.registry import answers, free_port
from bench.serving import REPOSITORY, docker_registry, push
from bench.waiting import until
from imagedist.errors import ImagedistError
from imagedist.oci.digest import Digest
from imagedist.site_sync import SyncStatus
from seeder.database import Database
from seeder.moves import Meaning, Terms
from seeder.sync.tables import SEEN
from seeder.tags import TagJournal

_PATIENCE_SECONDS = 300.0
_NAME = f"local/{REPOSITORY}"
_PROXY = """\
[proxy]
listen = "127.0.0.1:{proxy}"
site_blobs = "{directory}/site"
site_seeders = ["http://127.0.0.1:{seeder}"]
[upstreams.local]
url = "{registry}"
"""
_SEEDER = """\
[seeder]
site = "{site}"
listen = "127.0.0.1:{seeder}"
bittorrent = "127.0.0.1:0"
site_blobs = "{directory}/site"
site_proxies = ["http://127.0.0.1:{proxy}"]
database = "sqlite:///{directory}/seeder.db"
[sites.{other}]
proxy = "http://127.0.0.1:{other_proxy}"
seeder = "http://127.0.0.1:{other_seeder}"
"""
_RULE = f'[[sync]]\nfrom = "local"\nrepositories = ["{REPOSITORY}"]\nto = ["b"]\n'


@dataclass(frozen=True, slots=True)
class TagsTimes:
    """Seconds, by the journal with the start of the site that reads it; ``manifests``: GETs of manifests at the
    registry meanwhile."""

    count: int
    journal_seconds: float
    registry_seconds: float
    manifests: int


def time_tags(directory: Path, count: int, say: Say) -> TagsTimes:
    """Raises ImagedistError: something did not start or did not end."""
    ports = {name: (free_port(), free_port()) for name in ("a", "b")}
    with ExitStack() as stack:
        registry = stack.enter_context(docker_registry(directory / "upstream", is_witness=True))
        digest, _ = push(registry.url, [1000])
        say(f"{count} tags in a registry and in the journals of two sites")
        tags = [f"t{number}" for number in range(count)]
        _add_tags(directory / "upstream" / "registry", digest, tags)
        meaning = Meaning(digest, "a", {"a": 1}, {"b": Terms()})
        for name in ("a", "b"):
            (directory / name).mkdir(parents=True)
            asyncio.run(_fill(directory / name / "seeder.db", name, tags, meaning))
        first = stack.enter_context(_site(directory / "a", "a", "b", ports, registry.url, _RULE))
        until(lambda: _is_quiet(first), "the first look through the registry", _PATIENCE_SECONDS)
        say("the registry is looked through")
        before = _manifests(registry.log)
        looked_at = _status(first).rules[0].scanned_at
        began = time.perf_counter()
        with urlopen(Request(f"{first}/site/v1/syncs/run", b"", method="POST")):
            pass
        until(lambda: _is_past(first, looked_at), "the second look", _PATIENCE_SECONDS)
        registry_seconds = time.perf_counter() - began
        manifests = _manifests(registry.log) - before
        _check_unchanged(first, count)
        say("the journal is read from its beginning")
        began = time.perf_counter()
        other = stack.enter_context(_site(directory / "b", "b", "a", ports, registry.url, ""))
        until(lambda: _status(other).follows[0].sequence >= count, "the whole journal", _PATIENCE_SECONDS)
        journal_seconds = time.perf_counter() - began
        if (waiting := _status(other).waiting) > 1:  # the tag that the image was pushed with is news there
            raise ImagedistError(f"{waiting} of {count} tags were taken for changed")
    return TagsTimes(count, journal_seconds, registry_seconds, manifests)


async def _fill(path: Path, site: str, tags: list[str], meaning: Meaning) -> None:
    """A database as it is when all the tags are synced; where they come from, what the registry said as well."""
    database = await Database.open(f"sqlite:///{path}")
    try:
        journal = TagJournal(database, site)
        await journal.identity()
        async with journal.changing() as connection:
            for tag in tags:
                await journal.append(connection, _NAME, tag, meaning)
            if site == meaning.origin:
                terms = json.dumps({"b": Terms().model_dump(mode="json")})
                seen = {"name": _NAME, "digest": str(meaning.digest), "terms": terms}
                await connection.execute(sa.insert(SEEN), [seen | {"tag": tag} for tag in tags])
    finally:
        await database.close()


def _add_tags(root: Path, digest: Digest, tags: list[str]) -> None:
    """As docker-registry keeps them on a disk: 10,000 pushes would take a minute."""
    place = root / "docker/registry/v2/repositories" / REPOSITORY / "_manifests/tags"
    for tag in tags:
        for link in (place / tag / "current", place / tag / "index" / digest.algorithm / digest.hex):
            link.mkdir(parents=True)
            (link / "link").write_text(str(digest))


@contextmanager
def _site(
    directory: Path, name: str, other: str, ports: dict[str, tuple[int, int]], registry: str, rules: str
) -> Iterator[str]:
    """The seeder's URL. Raises ImagedistError: something did not start."""
    (proxy, seeder), (other_proxy, other_seeder) = ports[name], ports[other]
    values = {"proxy": proxy, "seeder": seeder, "directory": directory, "registry": registry, "site": name}
    values |= {"other": other, "other_proxy": other_proxy, "other_seeder": other_seeder}
    (directory / "proxy.toml").write_text(_PROXY.format(**values))
    (directory / "seeder.toml").write_text(_SEEDER.format(**values) + rules)
    with ExitStack() as stack:
        for module, port in (("registry_proxy", proxy), ("seeder", seeder)):
            config = directory / f"{'proxy' if module == 'registry_proxy' else module}.toml"
            command = [sys.executable, "-m", module, "--config", str(config)]
            url = f"http://127.0.0.1:{port}/readyz"
            stack.enter_context(daemon(command, config.with_suffix(".log"), partial(answers, url)))
        yield f"http://127.0.0.1:{seeder}"


def _status(seeder: str) -> SyncStatus:
    with urlopen(f"{seeder}/site/v1/syncs") as answer:
        return SyncStatus.model_validate_json(answer.read())


def _is_past(seeder: str, looked_at: float | None) -> bool:
    status = _status(seeder)
    return not status.is_scanning and status.rules[0].scanned_at != looked_at


def _is_quiet(seeder: str) -> bool:
    status = _status(seeder)
    return not status.is_scanning and not status.waiting


def _check_unchanged(seeder: str, count: int) -> None:
    status = _status(seeder)
    if status.waiting or (status.rules[0].tags or 0) < count:
        raise ImagedistError(f"{status.waiting} of {status.rules[0].tags} tags were taken for changed")


def _manifests(log: Path) -> int:
    return log.read_text(errors="replace").count(f'"GET /v2/{REPOSITORY}/manifests/')
