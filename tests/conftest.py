"""Which tests run here: those that need root or real clients are left out where these are missing, never silently.

With ``--e2e`` (``make test E2E=1``), ``E2E=1`` or ``CI=true``, what is missing is a failure instead; other systems that
the benchmark has beside ours must be there with ``PROVE=1`` (``make prove``).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from bench import network
from bench.network.namespace import Namespace
from tests.support.counts import count

# Whatever else the machine does: the same examples every day, and none that is too slow. New ones by make prove.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=count(1, 0) == 1
)
settings.load_profile("tests")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's job in the background ignores Ctrl-C, and what it starts inherits that: commands that are to be
    # interrupted would run for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_PACKAGES = {
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "podman": "podman",
    "docker.io": "dockerd",
    "containerd": "containerd",
    "crun": "crun",
    "uidmap": "newuidmap",
    "strace": "strace",
    "umoci": "umoci",
    "buildah": "buildah",
    "nginx-light": "nginx",
    "apache2-utils": "htpasswd",
    "redis-server": "redis-server",
    "openssl": "openssl",
    "shellcheck": "shellcheck",
    "postgresql": "pg_ctlcluster",
    "systemd": "systemd-analyze",
}
"""Debian package → the program by which we see that it is installed."""
_NEWER = {
    "containerd/trixie": "usr/bin/containerd",
    "docker.io/trixie": "usr/sbin/dockerd",
    "docker-buildx/trixie": "usr/libexec/docker/cli-plugins/docker-buildx",
    "podman/trixie": "usr/bin/podman",
    "containerd/forky": "usr/bin/containerd",
    "docker.io/forky": "usr/sbin/dockerd",
    "docker-buildx/forky": "usr/libexec/docker/cli-plugins/docker-buildx",
}
"""Package of a newer Debian → its program, in a directory that deploy/newer-runtimes.sh fills."""
_UNPACKED = Path(__file__).parents[1] / "build/debian"
_BUILT_PEERS = Path(__file__).parents[1] / "build/peers"
_SCRIPTS = ("packages.sh", "newer-runtimes.sh")

_E2E_TIMEOUT_SECONDS = 300
_LEFT_OUT = "left out"
"""The property of a test that says why: it comes with the report from the worker that would have run it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--e2e", action="store_true", help="fail, rather than leave out, what cannot run on this machine")
    parser.addoption("--own-network", action="store_true", help="each pytest-xdist worker has a loopback of its own")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives end-to-end tests the time that real clients take, and puts them after everything else."""
    for item in items:
        if item.get_closest_marker("e2e") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_E2E_TIMEOUT_SECONDS))
    items.sort(key=lambda item: item.get_closest_marker("e2e") is not None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """For ``-n auto``: one by one where workers, which listen on the same ports, can have no networks of their own."""
    return 1 if config.getoption("--own-network") and network.why_not() else None


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Whatever a worker's tests start inherits its network."""
    if not (session.config.getoption("--own-network") and hasattr(session.config, "workerinput")):
        return (yield)
    if network.why_not():
        return (yield)
    own = Namespace()
    try:
        with own.entered():
            return (yield)
    finally:
        own.close()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    reason, is_required = _missing(item), _is_required(item.config)
    if reason is None and (reason := _missing_peer(item)):
        is_required = os.environ.get("PROVE") == "1"
    if reason is None:
        return
    if is_required:
        pytest.fail(reason, pytrace=False)
    item.user_properties.append((_LEFT_OUT, reason))
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows what a program that failed said: the exception has only its exit code."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, subprocess.CalledProcessError):
        said = call.excinfo.value.stderr
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        report.sections.append(("stderr of the program", text or "(not captured)"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped: list[pytest.TestReport] = terminalreporter.stats.get("skipped", [])
    left_out = [(each.nodeid, why) for each in skipped for name, why in each.user_properties if name == _LEFT_OUT]
    if not left_out:
        return
    terminalreporter.section("left out on this machine")
    for test, reason in left_out:
        terminalreporter.line(f"{test}: {reason}")
    terminalreporter.line("to enable them, as root on Debian: make test E2E=1 (installs the packages first)")


def _is_required(config: pytest.Config) -> bool:
    asked = os.environ.get("E2E", "") in ("1", "true") or os.environ.get("CI", "") in ("1", "true")
    return bool(config.getoption("--e2e")) or asked


def _missing(item: pytest.Item) -> str | None:
    """What a test needs and this machine has not.

    ``@pytest.mark.e2e("podman", …)`` names Debian packages, with ``/SUITE`` a newer Debian's; none: all the usual ones.
    ``@pytest.mark.package("systemd")`` is for programs that any user runs, beside other tests.
    ``@pytest.mark.network`` makes a network of namespaces.
    """
    markers = list(item.iter_markers("e2e"))
    packages = [package for marker in item.iter_markers("package") for package in marker.args]
    if (markers or item.get_closest_marker("root")) and os.geteuid() != 0:
        return "needs root"
    if item.get_closest_marker("network") and (obstacle := network.why_not()):
        return obstacle
    wanted = packages + [package for marker in markers for package in marker.args or _PACKAGES]
    return next(filter(None, map(_missing_package, wanted)), None)


def _missing_peer(item: pytest.Item) -> str | None:
    """``@pytest.mark.peer("kraken")`` names rows of deploy/peers.sh, which takes minutes: only make prove insists."""
    names = [name for marker in item.iter_markers("peer") for name in marker.args]
    absent = [name for name in names if not (_BUILT_PEERS / f"{name}.built").exists()]
    return f"needs other systems: run deploy/peers.sh {' '.join(absent)}" if absent else None


def _missing_package(package: str) -> str | None:
    suite = package.partition("/")[2]
    if suite:
        is_there = (_UNPACKED / suite / _NEWER[package]).exists()
    else:
        is_there = bool(shutil.which(_PACKAGES[package], path=_search_path()))
    if is_there:
        return None
    failure = _UNPACKED / f"{suite}.failed"
    remedy = failure.read_text().strip() if failure.exists() else f"run deploy/{_SCRIPTS[bool(suite)]} as root"
    return f"needs the Debian package {package}: {remedy}"


def _search_path() -> str:
    """Daemons lie in sbin, which is not in every user's PATH."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
