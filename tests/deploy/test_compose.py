"""The compose file with its two sites: it agrees with what it mounts, and its commands and files carry a tag across."""

from __future__ import annotations

import random
import re
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from imagedist.config import AgentConfig, ProxyConfig, SeederConfig, load, parse_size
from imagedist.demo.layout import BuiltImage
from tests.e2e import processes
from tests.e2e.processes import Process, answers, listens, succeed
from tests.support import layouts
from tests.support.layers import file, image

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SITES = ("bj", "sh")
_MODELS = {"proxy": ProxyConfig, "seeder": SeederConfig, "agent": AgentConfig}


def test_it_has_two_sites_with_a_registry_a_proxy_a_seeder_and_three_nodes_each() -> None:
    parts = ("registry", "proxy", "seeder", "n1", "n2", "n3")
    assert set(SERVICES) == {f"{site}-{part}" for site in SITES for part in parts}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_uses_what_is_declared_and_files_that_are_there(name: str) -> None:
    service = SERVICES[name]
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    assert set(service["secrets"]) <= set(COMPOSE["secrets"])
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        assert (DEPLOY / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]
    scripts = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["scripts"]
    assert service["command"][0] in {*scripts, "sh"}


@pytest.mark.parametrize("site", SITES)
def test_every_name_in_a_sites_files_is_a_service_that_is_reached_by_a_network_they_share(site: str) -> None:
    for kind in _MODELS:
        text = (DEPLOY / "compose" / site / f"{kind}.toml").read_text()
        ours = SERVICES[f"{site}-{kind}" if kind != "agent" else f"{site}-n1"]
        for host, port in re.findall(r"http://([a-z-]+):(\d+)", text):
            assert set(SERVICES[host]["networks"]) & set(ours["networks"]), host
            assert port == {"registry": "5000", "proxy": "5001", "seeder": "5002"}[host.split("-")[1]]


@pytest.mark.parametrize("site", SITES)
def test_its_files_are_valid_and_keep_their_state_in_the_volumes(site: str) -> None:
    directory = DEPLOY / "compose" / site
    for kind, model in _MODELS.items():
        load(directory / f"{kind}.toml", model)
        text = (directory / f"{kind}.toml").read_text()
        paths = [path for path in re.findall(r'"(?:sqlite:///)?(/[^"]+)"', text) if not path.startswith("/run/secrets")]
        assert all(path.startswith(("/var/lib/imagedist/", "/run/imagedist/")) for path in paths), paths
    agent = tomllib.loads((directory / "agent.toml").read_text())
    limit = re.fullmatch(r"(\d+)m", SERVICES[f"{site}-n1"]["mem_limit"])
    assert limit is not None
    assert int(limit[1]) << 20 >= parse_size(agent["unpack"]["ramdisk_budget"]) + (512 << 20)


def test_a_node_has_the_capabilities_of_the_agents_unit_and_everything_else_none() -> None:
    unit = (DEPLOY / "systemd/imagedist-agent.service").read_text()
    named = " ".join(re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)).split()
    for name, service in SERVICES.items():
        if name.endswith("registry"):
            continue
        assert service["cap_drop"] == ["ALL"]
        wanted = {each.removeprefix("CAP_") for each in named} if re.search(r"-n\d$", name) else set()
        assert set(service.get("cap_add", ())) == wanted, name


def test_the_image_is_built_from_files_that_are_there() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    sources = [line.split()[1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert sources == ["deploy/requirements.lock", "."]
    assert (DEPLOY / "requirements.lock").is_file()
    ignored = (DEPLOY.parent / ".dockerignore").read_text().split()
    assert not {"deploy", "imagedist", "registry_proxy", "seeder", "pyproject.toml", "README.md"} & set(ignored)


def test_what_nodes_install_is_locked_as_what_is_tested() -> None:
    def pins(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+)", path.read_text(), re.MULTILINE))

    tested, installed = pins(DEPLOY.parent / "requirements.lock"), pins(DEPLOY / "requirements.lock")
    assert installed.items() <= tested.items()
    wanted = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    for requirement in [*wanted["dependencies"], *wanted["optional-dependencies"]["containerd"]]:
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert match is not None
        assert match[0].lower() in installed


class Machine:
    """Every service of the file as a process of this machine, with an address instead of each name."""

    def __init__(self, base: Path) -> None:
        self.base = base
        ours = f"127.{random.randint(64, 127)}.{random.randint(0, 255)}"  # whoever else runs this has others
        self.addresses = {name: f"{ours}.{number}" for number, name in enumerate(SERVICES, 1)}
        self.token = base / "site.token"
        self.token.write_text("compose-token")
        self._running: list[Process] = []

    def text(self, name: str, path: Path) -> str:
        """A mounted file as the service would read it."""
        home = self.base / (name if name[3] == "n" else f"{name[:2]}-site")
        text = path.read_text().replace("/run/secrets/site_token", str(self.token))
        text = text.replace("0.0.0.0", self.addresses[name]).replace("127.0.0.1:5050", f"{self.addresses[name]}:5050")
        for host, address in self.addresses.items():
            text = text.replace(f"//{host}:", f"//{address}:")
        for place in ("/var/lib/imagedist", "/run/imagedist", "/var/lib/registry"):
            text = text.replace(place, f"{home}{place}")
        return text.replace("${SITE_TOKEN}", self.token.read_text())

    def start(self, name: str) -> None:
        site, part = name.split("-")
        kind = "agent" if part.startswith("n") else part
        suffix = "yml" if kind == "registry" else "toml"
        config = self.base / f"{name}.{suffix}"
        config.write_text(self.text(name, DEPLOY / "compose" / site / f"{kind}.{suffix}"))
        for place in ("var/lib/imagedist", "run/imagedist", "var/lib/registry"):
            (self.base / (name if kind == "agent" else f"{site}-site") / place).mkdir(parents=True, exist_ok=True)
        if kind == "registry":
            argv, port = ["docker-registry", "serve", str(config)], 5000
        else:
            program, *words = SERVICES[name]["command"]
            given = [str(config) if word == f"/etc/imagedist/{kind}.toml" else word for word in words]
            assert str(config) in given
            argv = [str(Path(sys.executable).with_name(program)), *given]
            port = {"proxy": 5001, "seeder": 5002}.get(kind, 5050)
        process = Process(argv, self.base / f"{name}.log")
        self._running.append(process)
        path = "v2/" if kind == "registry" else "livez"
        process.wait_until(lambda: answers(f"http://{self.addresses[name]}:{port}/{path}"), name)

    def stop(self) -> None:
        for process in reversed(self._running):
            process.stop()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.e2e("docker-registry", "skopeo")
@pytest.mark.timeout(240)
def test_its_commands_and_files_carry_a_pushed_tag_to_the_other_sites_nodes(machine: Machine) -> None:
    """One node of each site, for the machine's sake: the three have one and the same file."""
    for part in ("registry", "seeder", "proxy", "n1"):
        for site in SITES:
            machine.start(f"{site}-{part}")
    built = image([[file("hello", b"from bj")]], compression="gzip")
    layouts.write(built, machine.base / "image", "team/app:1")
    pushed = BuiltImage(machine.base / "image", built.image)
    target = f"docker://{machine.addresses['bj-registry']}:5000/team/app:1"
    succeed(["skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{pushed.layout}", target])

    proxy = machine.addresses["sh-proxy"]
    _until(lambda: answers(f"http://{proxy}:5001/v2/local/team/app/manifests/1"), "the webhook has it synced to sh")
    socket = machine.base / "sh-n1/run/imagedist/agent.sock"
    _until(lambda: listens(socket), "sh's node listens for commands")
    words = ["pull", "registry.local/team/app:1", "--socket", str(socket)]
    done = processes.run([sys.executable, "-m", "imagedist", *words])
    assert done.returncode == 0, done.stderr
    nodes = ["nodes", "--json", "--socket", str(socket), "--token-file", str(machine.token)]
    listed = processes.run([sys.executable, "-m", "imagedist", *nodes])
    assert '"site":"sh"' in listed.stdout.replace(" ", ""), listed.stdout + listed.stderr


def _until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
