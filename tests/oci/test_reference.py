"""References and digests: what users type, to the letter of the specs."""

from __future__ import annotations

import pytest

from imagedist.errors import InputError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import Reference

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.12", "docker.io/library/python:3.12"),
        ("bitnami/redis", "docker.io/bitnami/redis:latest"),
        ("docker.io/python", "docker.io/library/python:latest"),
        ("index.docker.io/library/python", "docker.io/library/python:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("registry.local:5000/a/b__c/d-e.f:T_1", "registry.local:5000/a/b__c/d-e.f:T_1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        (f"ghcr.io/a/b@sha256:{HEX}", f"ghcr.io/a/b@sha256:{HEX}"),
        (f"ghcr.io/a/b:1@sha256:{HEX}", f"ghcr.io/a/b:1@sha256:{HEX}"),
    ],
)
def test_what_users_type_means_what_docker_means(typed: str, meant: str) -> None:
    assert str(Reference.parse(typed)) == meant


@pytest.mark.parametrize(
    "typed",
    [
        *("", ":", "a:", "a b", "UPPER", "reg.io/UPPER", "reg.io/", "a//b", "a:" + "t" * 129, "a@sha256:12"),
        *("a@md5:" + HEX, "reg.io/a/../b", "-a", "a/-b", "reg.io:port/a", "http://reg.io/a", "a" * 256, "a\n", "a:b\n"),
    ],
)
def test_what_is_no_reference_is_refused_and_quoted(typed: str) -> None:
    with pytest.raises(InputError):
        Reference.parse(typed)


def test_a_digest_wins_over_the_tag() -> None:
    reference = Reference.parse(f"ghcr.io/a/b:1@sha256:{HEX}")
    assert reference.target == f"sha256:{HEX}"
    assert Reference.parse("ghcr.io/a/b:1").at(Digest("sha256", HEX)).target == f"sha256:{HEX}"


@pytest.mark.parametrize("text", ["sha256:" + HEX.upper(), "sha256:" + HEX[1:], "sha1:" + HEX, HEX, "sha256:../" + HEX])
def test_malformed_digests_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="invalid digest"):
        Digest.parse(text)


def test_sha512_digests_are_digests() -> None:
    assert str(Digest.parse("sha512:" + HEX * 2)) == "sha512:" + HEX * 2
    assert Digest.of(b"x", "sha512").algorithm == "sha512"
