"""Two sites as real processes: what one holds, the other need not fetch; what is dead costs little."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.demo.image import build
from imagedist.demo.layout import BuiltImage
from tests.e2e.processes import Process, answers
from tests.support.ports import free_port
from tests.upstreams.proxy import Proxy
from tests.upstreams.servers import Registry

pytestmark = pytest.mark.e2e

IMAGE = "team/app:1"
_SEEDER = """\
[seeder]
site = "{site}"
listen = "127.0.0.1:{port}"
bittorrent = "127.0.0.1:{peers}"
site_blobs = "{directory}/blobs"
database = "sqlite:///{directory}/seeder.db"
{sites}
"""
_SITE = """\
[sites.{name}]
proxy = "{proxy}"
seeder = "http://127.0.0.1:1"
cost = {cost}
"""


class Seeder:
    """A site's seeder that names siblings: (name, proxy, cost)."""

    def __init__(self, directory: Path, site: str, *siblings: tuple[str, str, int]) -> None:
        directory.mkdir(parents=True)
        (directory / "blobs").mkdir()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        sites = "".join(_SITE.format(name=name, proxy=proxy, cost=cost) for name, proxy, cost in siblings)
        config = directory / "seeder.toml"
        config.write_text(_SEEDER.format(site=site, port=port, peers=free_port(), directory=directory, sites=sites))
        argv = [sys.executable, "-m", "seeder", "--config", str(config)]
        self._process = Process(argv, directory / "seeder.log")
        self._process.wait_until(lambda: answers(f"{self.url}/readyz"), self.url)

    def stop(self) -> None:
        self._process.stop()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    return build(tmp_path_factory.mktemp("image") / "layout", size_bytes=6_000_000, name=IMAGE)


@pytest.fixture
def registry(built: BuiltImage, tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "registry")
    registry.push(built, IMAGE)
    yield registry
    registry.stop()


def test_site_gets_from_its_sibling_what_that_holds(registry: Registry, built: BuiltImage, tmp_path: Path) -> None:
    with Proxy(tmp_path / "bj", f'url = "{registry.url}"') as bj:
        bj.pulled(IMAGE)
        dead = f"http://127.0.0.1:{free_port()}"
        seeder = Seeder(tmp_path / "seeder", "sh", ("gz", dead, 1), ("bj", bj.url, 5))
        try:
            with urllib.request.urlopen(f"{seeder.url}/site/v1/sites") as answer:
                assert [each["name"] for each in json.load(answer)["siblings"]] == ["gz", "bj"]
            keys = f'site_seeders = ["{seeder.url}"]'
            with Proxy(tmp_path / "sh", f'url = "{registry.url}"', keys) as sh:
                sh.wait_until_told('upstream="site gz"')
                asked = len(registry.requests())
                sh.pulled(IMAGE)
                assert [path for path in registry.requests()[asked:] if "/blobs/" in path] == []
                assert sh.metric("imagedist_received_bytes_total", source="sibling") >= built.size_bytes
                assert sh.metric("imagedist_received_bytes_total", source="upstream") == 0
                assert sh.metric("imagedist_upstream_open", upstream="site gz") == 1
                assert sh.metric("imagedist_source_failures_total", source="sibling") >= 1
        finally:
            seeder.stop()
