"""deploy/peers.sh without a network: a stand-in for go, what it says, and what it does not do twice."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from subprocess import CompletedProcess

from bench.processes import BUILT

SCRIPT = Path(__file__).parents[2] / "deploy/peers.sh"

GO = """\
#!/bin/sh
echo "$*" >>"$CALLS"
case "$1 $2" in
    "env GOPROXY") echo https://proxy.example ;;
    "mod download")
        if [ -n "$REFUSES" ]; then printf '{\\n\\t"Error": "no such host"\\n}\\n'; exit 1; fi
        printf '{\\n"Path": "it",\\n"Dir": "%s"\\n}\\n' "$MODULE" ;;
    build*) while [ "$1" != -o ]; do shift; done; mkdir -p "${2%/*}"; echo program >"$2" ;;
esac
"""


def run(tmp_path: Path, *arguments: str, refuses: str = "") -> CompletedProcess[str]:
    for name in ("bin", "module/cmd/nerdctl/helpers"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "module/cmd/nerdctl/helpers/testing.go").touch()
    (tmp_path / "bin/go").write_text(GO)
    (tmp_path / "bin/go").chmod(0o755)
    env = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "CALLS": f"{tmp_path}/calls",
        "MODULE": f"{tmp_path}/module",
        "REFUSES": refuses,
    }
    command = ["sh", str(SCRIPT), "-d", str(tmp_path / "peers"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def calls(tmp_path: Path, of: str) -> list[str]:
    return [line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith(of)]


def test_a_peer_is_built_once(tmp_path: Path) -> None:
    assert run(tmp_path, "soci").returncode == 0
    assert (tmp_path / "peers/bin/soci-snapshotter-grpc").read_text() == "program\n"
    assert len(calls(tmp_path, "build")) == 1

    assert run(tmp_path, "soci").returncode == 0

    assert len(calls(tmp_path, "build")) == 1
    assert sorted(path.name for path in (tmp_path / "peers").iterdir()) == ["bin", "soci.built"]


def test_all_programs_of_a_system_are_built(tmp_path: Path) -> None:
    assert run(tmp_path, "kraken").returncode == 0
    built = {path.name for path in (tmp_path / "peers/bin").iterdir()}
    assert built == {program for program, peer in BUILT.items() if peer == "kraken"}


def test_another_version_is_built_anew(tmp_path: Path) -> None:
    run(tmp_path, "nerdctl")
    (tmp_path / "peers/nerdctl.built").write_text("github.com/containerd/nerdctl/v2@v1.0.0\n")
    run(tmp_path, "nerdctl")
    assert len(calls(tmp_path, "build")) == 2


def test_every_module_has_an_exact_version(tmp_path: Path) -> None:
    assert run(tmp_path, "soci", "nerdctl").returncode == 0
    asked = [line.split()[-1] for line in calls(tmp_path, "mod download")]
    assert len(asked) == 3
    assert all("@v" in module for module in asked)


def test_a_proxy_that_has_it_not_is_named_with_what_it_said(tmp_path: Path) -> None:
    done = run(tmp_path, "soci", refuses="1")
    assert done.returncode == 1
    assert "https://proxy.example gave no github.com/awslabs/soci-snapshotter@" in done.stderr
    assert "no such host" in done.stderr
    assert [path.name for path in (tmp_path / "peers").iterdir()] == ["bin"]


def test_a_peer_that_is_none_is_refused_with_those_there_are(tmp_path: Path) -> None:
    done = run(tmp_path, "rkt")
    assert done.returncode == 1
    assert "no peer rkt: there are" in done.stderr
    assert "nerdctl" in done.stderr
