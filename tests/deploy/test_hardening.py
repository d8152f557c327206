"""The units' hardening: systemd's own rating of it, and processes that do their work within it.

No systemd runs here, so its parts are made by hand: the capabilities and no new privileges by setpriv, the read-only
file system and the private /tmp by a mount namespace; system calls and address families are watched by strace and held
against the filters, which systemd resolves itself. Not tried: PrivateDevices, the Protect* options for the kernel.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagedist.demo.layout import BuiltImage
from tests.e2e import processes
from tests.e2e.processes import Process, answers, listens, succeed
from tests.support import layouts
from tests.support.layers import file, image
from tests.support.ports import free_port

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
NAMES = ("agent", "snapshotter", "proxy", "seeder", "preheat@")


class Unit:
    def __init__(self, name: str) -> None:
        self.path = UNITS / f"imagedist-{name}.service"
        self._text = self.path.read_text()

    def words(self, key: str) -> list[str]:
        return " ".join(re.findall(rf"^{key}=(.*)$", self._text, re.MULTILINE)).split()

    @property
    def system_calls(self) -> set[str]:
        sets = _sets()
        found: set[str] = set()
        names = self.words("SystemCallFilter")
        while names:
            name = names.pop()
            if not name.startswith("@"):
                found.add(name)
            names += [each for each in sets.get(name, ()) if each not in found]
        return found


def _sets() -> dict[str, set[str]]:
    """systemd's own sets of system calls, which hold names and other sets."""
    told = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True
    )
    found: dict[str, set[str]] = {}
    for line in told.stdout.splitlines():
        if line.startswith("@"):
            members = found.setdefault(line.strip(), set())
        elif line.strip() and not line.strip().startswith("#"):
            members.add(line.strip())
    return found


@pytest.mark.package("systemd")
@pytest.mark.parametrize(
    ("name", "at_most"), [("proxy", 21), ("seeder", 21), ("preheat@", 20), ("agent", 42), ("snapshotter", 37)]
)
def test_systemd_rates_the_exposure_of_a_unit_no_higher(name: str, at_most: int) -> None:
    """In tenths, of 10."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={at_most}", Unit(name).path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", NAMES)
def test_every_unit_confines_what_it_runs(name: str) -> None:
    unit = Unit(name)
    for key in (
        "NoNewPrivileges",
        "ProtectHome",
        "PrivateTmp",
        "LockPersonality",
        "RestrictNamespaces",
        "ProtectClock",
    ):
        assert unit.words(key) == ["yes"], key
    assert unit.words("ProtectSystem")[0] in ("strict", "full")
    for key in ("SystemCallFilter", "RestrictAddressFamilies", "MemoryMax", "SystemCallArchitectures"):
        assert unit.words(key), key
    assert re.search("^CapabilityBoundingSet=", unit.path.read_text(), re.MULTILINE)


_FILES = {
    "registry.yml": """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {base}/registry}}}}
http: {{addr: "127.0.0.1:{registry}"}}
""",
    "proxy.toml": """\
[proxy]
listen = "127.0.0.1:{proxy}"
site_blobs = "{base}/site"
site_seeders = ["http://127.0.0.1:{seeder}"]
default_upstream = "local"
workers = 2
[upstreams.local]
url = "http://127.0.0.1:{registry}"
hosts = ["registry.local"]
""",
    "seeder.toml": """\
[seeder]
site = "x"
listen = "127.0.0.1:{seeder}"
bittorrent = "127.0.0.1:{peers}"
site_blobs = "{base}/site"
site_proxies = ["http://127.0.0.1:{proxy}"]
database = "sqlite:///{base}/seeder.db"
""",
    "agent.toml": """\
[agent]
listen = "127.0.0.1:{agent}"
bittorrent = "127.0.0.1:{agent_peers}"
socket = "{base}/agent.sock"
site_proxies = ["http://127.0.0.1:{proxy}"]
site_seeders = ["http://127.0.0.1:{seeder}"]
node_blobs = "{base}/blobs"
preheat_check = "500ms"
heartbeat = "500ms"
[storage]
root = "{base}/storage"
used_by = []
[unpack]
ramdisk = "{base}/ramdisk"
ramdisk_budget = "64MiB"
[snapshotter]
socket = "{base}/snapshotter.sock"
""",
    "base.toml": """\
name = "base"
images = ["registry.local/team/app:1"]
[limits]
headroom = "1MiB"
""",
}

_PROBES = {"snapshotter": {"AF_INET"}}
"""gRPC opens one such socket to see whether ports can be shared; where it gets none, it takes that for a no."""

_CONFINED = """\
set -e
mount --make-rprivate /
mount --bind "$BASE" "$BASE"
mount -t tmpfs none /tmp
case $PROTECT in
strict) mount -o remount,bind,ro / ;;
full) for each in /usr /boot /etc; do mount --bind $each $each; mount -o remount,bind,ro $each; done ;;
esac
exec setpriv --no-new-privs --inh-caps=-all --bounding-set="$CAPABILITIES" \\
    strace -D -f -q -s 0 --seccomp-bpf -e "trace=$TRACED" -o "$LOG" "$@"
"""


class Confined:
    """A unit's process under what its unit allows. Its files lie on a tmpfs of the test's own."""

    def __init__(self, base: Path, name: str, *command: str) -> None:
        self.name = name
        self.unit = Unit(name)
        self.log = base / f"{name}.strace"
        allowed = [each.removeprefix("CAP_").lower() for each in self.unit.words("CapabilityBoundingSet")]
        env = {
            "BASE": str(base),
            "PROTECT": self.unit.words("ProtectSystem")[0],
            "CAPABILITIES": ",".join(["-all", *(f"+{each}" for each in allowed)]),
            "LOG": str(self.log),
            # Only what the unit refuses, and sockets: all else runs at full speed.
            "TRACED": "!" + ",".join(f"?{each}" for each in sorted(self.unit.system_calls - {"socket", "socketpair"})),
            "HOME": str(base),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        argv = ["unshare", "--mount", "sh", "-c", _CONFINED, "sh", sys.executable, "-m", *command]
        self.process = Process(argv, base / f"{name}.log", env)

    def check(self) -> None:
        """Every system call that it made, and every kind of socket, is one that its unit allows."""
        self.process.stop()
        ended = re.compile(rf"^{self.process.pid} +\+\+\+", re.MULTILINE)
        _until(lambda: ended.search(self.log.read_text(errors="replace")) is not None, "strace has written all of it")
        text = self.log.read_text(errors="replace")
        calls = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", text, re.MULTILINE))
        assert calls, self.process.log.read_text()
        assert calls <= {"socket", "socketpair"}
        families = set(re.findall(r"\bsocket(?:pair)?\((AF_[A-Z0-9]+)", text)) - _PROBES.get(self.name, set())
        assert families <= set(self.unit.words("RestrictAddressFamilies"))


@pytest.fixture
def base() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="hardening-", dir="/dev/shm"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.e2e("strace")
@pytest.mark.package("systemd")
def test_what_a_unit_does_not_allow_is_noticed(base: Path) -> None:
    stray = Confined(base, "proxy", "timeit", "-n", "1", "import os; os.chroot('/')")
    _until(lambda: not stray.process.is_running(), "it ended")
    with pytest.raises(AssertionError, match="chroot"):
        stray.check()


@pytest.mark.e2e("docker-registry", "skopeo", "strace")
@pytest.mark.timeout(240)
@pytest.mark.package("systemd")
def test_a_site_and_a_node_do_their_work_within_what_their_units_allow(base: Path) -> None:
    ports = {name: free_port() for name in ("registry", "proxy", "seeder", "peers", "agent", "agent_peers")}
    for name, text in _FILES.items():
        (base / name).write_text(text.format(base=base, **ports))
    (base / "site").mkdir()
    started: list[Process] = [Process(["docker-registry", "serve", str(base / "registry.yml")], base / "registry.log")]
    confined: list[Confined] = []
    try:
        started[0].wait_until(lambda: answers(f"http://127.0.0.1:{ports['registry']}/v2/"), "docker-registry")
        layers = [[file("a", os.urandom(300_000), mode=0o4755)], [file("b", b"x"), file("c", b"y", uid=1000, gid=1000)]]
        built = image(layers, compression="gzip")
        layouts.write(built, base / "image", "team/app:1")
        target = f"docker://127.0.0.1:{ports['registry']}/team/app:1"
        succeed(
            [
                "skopeo",
                "copy",
                "--dest-tls-verify=false",
                f"oci:{BuiltImage(base / 'image', built.image).layout}",
                target,
            ]
        )
        for name, command in (
            ("seeder", ("seeder", "--config", str(base / "seeder.toml"))),
            ("proxy", ("registry_proxy", "--config", str(base / "proxy.toml"))),
            ("agent", ("imagedist", "agent", "--config", str(base / "agent.toml"))),
        ):
            confined.append(Confined(base, name, *command))
            confined[-1].process.wait_until(_live(ports[name]), name)
        confined.append(Confined(base, "snapshotter", "imagedist", "snapshotter", "--config", str(base / "agent.toml")))
        confined[-1].process.wait_until(lambda: listens(base / "snapshotter.sock"), "snapshotter")
        _until(lambda: listens(base / "agent.sock"), "the agent listens for commands")
        done = processes.run(
            [
                sys.executable,
                "-m",
                "imagedist",
                "pull",
                "registry.local/team/app:1",
                "--socket",
                str(base / "agent.sock"),
            ]
        )
        assert done.returncode == 0, done.stderr
        _until(
            lambda: (
                '"alive"' in _nodes(ports["seeder"]) or '"is_gone":false' in _nodes(ports["seeder"]).replace(" ", "")
            ),
            "the node beats",
        )
        preheat = Confined(
            base,
            "preheat@",
            "imagedist",
            "preheat",
            "run",
            str(base / "base.toml"),
            "--wait",
            "--seeder",
            f"http://127.0.0.1:{ports['seeder']}",
            "--socket",
            str(base / "agent.sock"),
        )
        confined.append(preheat)
        _until(lambda: not preheat.process.is_running(), "the preheat is over")
        assert "1 done" in preheat.process.log.read_text(), preheat.process.log.read_text()
        for each in reversed(confined):
            each.check()
    finally:
        for each in reversed(confined):
            each.process.stop()
        for process in started:
            process.stop()


def _live(port: int) -> Callable[[], bool]:
    return lambda: answers(f"http://127.0.0.1:{port}/livez")


def _nodes(seeder: int) -> str:
    return processes.run(
        [sys.executable, "-m", "imagedist", "nodes", "--json", "--seeder", f"http://127.0.0.1:{seeder}"]
    ).stdout


def _until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
