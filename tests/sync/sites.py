"""Sites as real processes, each with Debian's docker-registry, which notifies the site's seeder of every push."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from imagedist.demo.layout import BuiltImage
from imagedist.oci.manifest import OCI_MANIFEST
from imagedist.site_sync import SyncStatus
from tests.e2e import processes
from tests.e2e.processes import Process, answers, succeed
from tests.e2e.site import Service
from tests.support.postgres import site_database

UPSTREAM = "local"
_REGISTRY = """\
version: 0.1
log: {{level: warn, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {directory}/registry}}, delete: {{enabled: true}}}}
http: {{addr: "{address}:5000"}}
notifications:
  endpoints:
    - name: seeder
      url: {seeder}/site/v1/syncs/webhook?from=local
      headers: {{Authorization: ["Bearer {site}-hook"]}}
      timeout: 2s
      threshold: 3
      backoff: 1s
"""
_PROXY = """\
[proxy]
listen = "{address}:5001"
site_blobs = "{directory}/blobs"
site_seeders = ["{seeder}"]
site_token_file = "{directory}/token"
[upstreams.local]
url = "http://{address}:5000"
negative_ttl = "0s"
"""
_SEEDER = """\
[seeder]
site = "{site}"
listen = "{address}:5002"
bittorrent = "{address}:6881"
site_blobs = "{directory}/blobs"
site_proxies = ["{proxy}"]
site_token_file = "{directory}/token"
siblings_token_file = "{directory}/siblings"
webhook_token_file = "{directory}/hook"
database = "{database}"
{sites}
{rules}
"""
_BACKUP = """\
version: 0.1
log: {{level: warn, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {directory}/registry}}, delete: {{enabled: true}}}}
http: {{addr: "{address}:5000"}}
"""


def an_address() -> str:
    """Of its own, so that a stopped part finds its port free when it comes back."""
    return f"127.{random.randint(64, 127)}.{random.randint(0, 255)}.{random.randint(1, 254)}"


class Backup:
    """A docker-registry that nothing is pushed to but by sites."""

    def __init__(self, base: Path, name: str = "vault") -> None:
        self.name = name
        self.directory = base / name
        self.directory.mkdir()
        self.address = an_address()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}:5000"

    @property
    def log(self) -> str:
        return (self.directory / "registry.log").read_text()

    def table(self, **settings: str) -> str:
        """For a seeder's file. Values as TOML writes them."""
        more = "".join(f"{key} = {value}\n" for key, value in settings.items())
        return f'[backups.{self.name}]\nregistry = "{self.url}"\n{more}'

    def start(self) -> None:
        config = self.directory / "registry.yml"
        config.write_text(_BACKUP.format(address=self.address, directory=self.directory))
        self._process = Process(["docker-registry", "serve", str(config)], self.directory / "registry.log")
        self._process.wait_until(lambda: answers(f"{self.url}/v2/"), f"docker-registry of {self.name}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def has(self, name: str) -> bool:
        repository, _, tag = name.rpartition(":")
        url = f"{self.url}/v2/{repository}/manifests/{tag}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": OCI_MANIFEST}), timeout=60):
                return True
        except urllib.error.HTTPError:
            return False


class Site:
    """``start`` it when its siblings are joined; ``rules`` are TOML, for the seeder's file."""

    def __init__(self, base: Path, name: str) -> None:
        self.name = name
        self.rules = ""
        self.directory = base / name
        (self.directory / "blobs").mkdir(parents=True)
        self.database = site_database(self.directory)
        (self.directory / "token").write_text(f"{name}-secret")
        (self.directory / "hook").write_text(f"{name}-hook")
        (self.directory / "siblings").write_text(f"{name}-siblings")
        self.address = an_address()
        self._siblings: list[tuple[Site, int]] = []
        self._registry: Process | None = None
        self.proxy = self._service("registry_proxy", "proxy", 5001)
        self.seeder = self._service("seeder", "seeder", 5002)

    def _service(self, module: str, name: str, port: int) -> Service:
        config = str(self.directory / f"{name}.toml")
        url = f"http://{self.address}:{port}"
        return Service([module, "--config", config], self.directory / f"{name}.log", url)

    def join(self, *others: Site, cost: int = 10) -> None:
        self._siblings += [(other, cost) for other in others]

    def start(self) -> None:
        values = {"address": self.address, "directory": self.directory, "site": self.name}
        values |= {"seeder": self.seeder.url, "proxy": self.proxy.url, "database": self.database}
        sites = "".join(
            f'[sites.{each.name}]\nproxy = "{each.proxy.url}"\nseeder = "{each.seeder.url}"\n'
            f'token_file = "{each.directory}/siblings"\ncost = {cost}\n'
            for each, cost in self._siblings
        )
        for name, template in (("registry.yml", _REGISTRY), ("proxy.toml", _PROXY), ("seeder.toml", _SEEDER)):
            text = template.format(**values, sites=sites, rules=self.rules)
            (self.directory / name).write_text(text)
        argv = ["docker-registry", "serve", str(self.directory / "registry.yml")]
        self._registry = Process(argv, self.directory / "registry.log")
        url = f"http://{self.address}:5000/v2/"
        self._registry.wait_until(lambda: answers(url), f"docker-registry of {self.name}")
        self.seeder.start()
        self.proxy.start()

    def stop(self) -> None:
        self.seeder.stop()
        self.proxy.stop()
        self.stop_registry()

    def stop_registry(self) -> None:
        if self._registry is not None:
            self._registry.stop()
            self._registry = None

    def push(self, built: BuiltImage, name: str) -> None:
        target = f"docker://{self.address}:5000/{name}"
        succeed(["skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{built.layout}", target])

    def pull(self, name: str, into: Path) -> subprocess.CompletedProcess[str]:
        """By a real client, through the site's proxy."""
        source = f"docker://{self.address}:5001/{UPSTREAM}/{name}"
        return processes.run(["skopeo", "copy", "--src-tls-verify=false", source, f"dir:{into}"])

    def imagedist(self, *arguments: str, as_site: Site | None = None) -> subprocess.CompletedProcess[str]:
        """A command that asks the site's seeder, with the site's token or another's."""
        token = (as_site or self).directory / "token"
        options = ["--seeder", self.seeder.url, "--token-file", str(token)]
        return processes.run([sys.executable, "-m", "imagedist", *arguments, *options])

    def wipe(self) -> None:
        """The store's disk is lost while proxy and seeder are away."""
        shutil.rmtree(self.directory / "blobs")
        (self.directory / "blobs").mkdir()

    def verify(self, place: str) -> subprocess.CompletedProcess[str]:
        """What the site's proxy holds, and another place."""
        token = str(self.directory / "token")
        arguments = ["verify", f"site:{self.proxy.url}", place, "--token-file", token, "--deep"]
        return processes.run([sys.executable, "-m", "imagedist", *arguments])

    def status(self) -> SyncStatus:
        headers = {"Authorization": f"Bearer {self.name}-secret"}
        request = urllib.request.Request(f"{self.seeder.url}/site/v1/syncs", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return SyncStatus.model_validate_json(answer.read())

    def received_bytes(self) -> dict[str, int]:
        """Of blobs that came into the site since its proxy started, by source."""
        with urllib.request.urlopen(f"{self.proxy.url}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        return {
            sample.labels["source"]: int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "imagedist_received_bytes_total" and sample.value
        }

    def gave_siblings(self) -> bool:
        """Whether its proxy has sent a blob to another site since it was set up."""
        lines = (self.directory / "proxy.log").read_text().splitlines()
        return any("client=agent " in line and "method=GET route=blob" in line for line in lines)

    def has(self, name: str) -> bool:
        """Whether its proxy tells a tag."""
        repository, _, tag = name.rpartition(":")
        return answers(f"{self.proxy.url}/v2/{UPSTREAM}/{repository}/manifests/{tag}")


def blob_bytes(*images: BuiltImage) -> int:
    """Of the images' layers and configs, each once."""
    manifests = [built.image.manifest for built in images]
    blobs = [blob for manifest in manifests for blob in (manifest.config, *manifest.layers)]
    return sum({blob.digest: blob.size_bytes for blob in blobs}.values())
