"""A runtime that has the canary's name already keeps what it has, and is not tried."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from imagedist.canary import judge
from imagedist.errors import SourceError
from imagedist.oci.reference import Reference
from imagedist.runtimes import RuntimeReport, cri
from imagedist.runtimes.presence import has_image
from imagedist.runtimes.trials import Canary
from tests.runtimes.test_listing import program

NAME = "registry.example/team/app:1"


@pytest.mark.parametrize("key", ["docker", "nerdctl"])
def test_a_program_is_asked_for_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    log = program(tmp_path, monkeypatch, key, "echo []")
    assert has_image(key, NAME)
    assert log.read_text() == f"image inspect {NAME}\n"
    program(tmp_path, monkeypatch, key, f'echo "Error: no such object: {NAME}" >&2', "exit 1")
    assert not has_image(key, NAME)
    program(tmp_path, monkeypatch, key, 'echo "Cannot connect to the daemon" >&2', "exit 1")
    with pytest.raises(SourceError, match="Cannot connect"):
        has_image(key, NAME)


@pytest.mark.parametrize(("lines", "is_own"), [("false", True), ("true", False), ("", False), ("true\\nfalse", True)])
def test_what_podman_has_of_another_store_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, is_own: bool
) -> None:
    program(tmp_path, monkeypatch, "podman", f'printf "{lines}"')
    assert has_image("podman", NAME) is is_own


def test_a_runtime_says_by_cri_what_it_has(tmp_path: Path) -> None:
    asked = []

    def image_status(request: bytes, context: grpc.ServicerContext) -> bytes:
        asked.append(request)
        return b"\x0a\x04\x0a\x02id" if NAME.encode() in request else b""

    handler = grpc.method_handlers_generic_handler(
        "runtime.v1.ImageService", {"ImageStatus": grpc.unary_unary_rpc_method_handler(image_status)}
    )
    server = grpc.server(ThreadPoolExecutor(1), handlers=[handler])
    server.add_insecure_port(f"unix:{tmp_path}/cri.sock")
    server.start()
    try:
        assert cri.has_image(tmp_path / "cri.sock", NAME)
        assert not cri.has_image(tmp_path / "cri.sock", "registry.example/team/other:1")
        assert asked[0] == b"\x0a\x1d\x0a\x1b" + NAME.encode()
    finally:
        server.stop(None).wait()


async def test_the_proof_leaves_a_runtime_alone_that_has_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = program(tmp_path, monkeypatch, "docker", "echo []")
    canary = Canary(Reference.parse(NAME), "127.0.0.1:1", "up", ("true",), "", tmp_path, lambda: None, lambda: None)
    report = RuntimeReport("docker", "Docker", "26", "yes", "no", "", True, {}, "", (), None)
    verdict = await judge(report, canary)
    assert (verdict.mirror, verdict.unpacked, verdict.ran, verdict.is_good) == ("-", "-", "-", False)
    assert f"it has {NAME} already, which is left as it is" in verdict.detail
    assert log.read_text() == f"image inspect {NAME}\n"
