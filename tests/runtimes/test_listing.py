"""What a runtime lists, by its own program's answer; and asking containerd to keep an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagedist.errors import InputError, SourceError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import Reference
from imagedist.runtimes import listing

REFERENCE = Reference.parse("registry.example/team/app:1")
IMAGE = Digest.of(b"image")


def program(directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, *lines: str) -> Path:
    """A runtime's program that notes what it is asked and does what the lines say."""
    path, log = directory / name, directory / "log"
    path.write_text("\n".join(["#!/bin/sh", f'echo "$@" >> "{log}"', *lines]))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    return log


def test_docker_and_podman_name_the_image_by_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = program(tmp_path, monkeypatch, "docker", f"echo {IMAGE}")
    assert listing.listed("docker", REFERENCE) == IMAGE
    assert log.read_text() == "image inspect --format {{.Id}} registry.example/team/app:1\n"
    program(tmp_path, monkeypatch, "podman", f"echo {IMAGE.hex}")
    assert listing.listed("podman", REFERENCE) == IMAGE


def test_containerd_names_it_by_what_the_tag_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head, row = (
        "REF TYPE DIGEST SIZE PLATFORMS LABELS",
        f"registry.example/team/app:1 application/x {IMAGE} 3.2 MiB - -",
    )
    log = program(tmp_path, monkeypatch, "ctr", f'echo "{head}"', f'echo "{row}"')
    assert listing.listed("containerd", REFERENCE) == IMAGE
    assert log.read_text() == "--namespace k8s.io images ls name==registry.example/team/app:1\n"
    program(tmp_path, monkeypatch, "ctr", f'echo "{head}"')
    assert listing.listed("containerd", REFERENCE) is None


@pytest.mark.parametrize(
    "says", ["Error: No such image: x", "Error: x: image not known", "Error response from daemon: no such object: x"]
)
def test_an_image_that_is_not_there_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    program(tmp_path, monkeypatch, "docker", f'echo "{says}" >&2', "exit 1")
    assert listing.listed("docker", REFERENCE) is None


def test_a_runtime_that_does_not_answer_has_not_said_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "docker", 'echo "Cannot connect to the Docker daemon" >&2', "exit 1")
    with pytest.raises(SourceError, match="Cannot connect"):
        listing.listed("docker", REFERENCE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="podman is not installed"):
        listing.listed("podman", REFERENCE)


def test_only_containerd_can_be_asked_to_keep_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = program(tmp_path, monkeypatch, "ctr")
    program(tmp_path, monkeypatch, "docker")
    listing.keep("docker", REFERENCE, True)
    listing.keep("containerd", REFERENCE, True)
    listing.keep("containerd", REFERENCE, False)
    label = "--namespace k8s.io images label registry.example/team/app:1 io.cri-containerd.pinned="
    assert log.read_text() == f"{label}pinned\n{label}\n"
