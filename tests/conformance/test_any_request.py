"""Whatever is sent, proxy, seeder and mirror answer as the contract says, and keep what they are.

Bounded here; ``make prove`` sends many more. Each route has its error form: OCI JSON below ``/v2``, ours below
``/site``; a request that is no HTTP gets 400.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from imagedist.oci.digest import Digest
from imagedist.oci.reference import is_name, is_tag
from tests.conformance.asking import Server
from tests.conformance.conftest import Site
from tests.conformance.content import Content
from tests.conformance.requests import INJECTED, any_request
from tests.support.counts import count

pytestmark = [pytest.mark.e2e("docker-registry"), pytest.mark.prove, pytest.mark.timeout(count(120, 1800))]

_STATUS = re.compile(rb"HTTP/[0-9]\.[0-9] ([0-9]{3}) ")
_ALLOWED = frozenset(
    {100, 200, 202, 204, 206, 304, 400, 401, 403, 404, 405, 409, 412, 413, 415, 416, 417, 422, 502, 503}
)
_TOKEN_ERRORS = {"invalid_request", "unsupported_grant_type"}
"""RFC 6749 §5.2."""
_CODES = re.compile(r"[A-Z_]+\Z")
_SPEC_CODES = frozenset(
    {
        "BLOB_UNKNOWN",
        "DENIED",
        "DIGEST_INVALID",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "UNAUTHORIZED",
        "UNSUPPORTED",
    }
)
_METHODS = rb"(?:GET|POST|PUT|DELETE|PATCH|OPTIONS|TRACE)"


@pytest.mark.parametrize(("part", "serves"), [("proxy", b"(?:v2|site/v1)"), ("agent", b"v2"), ("seeder", b"site/v1")])
def test_any_request_is_answered_by_the_contract(site: Site, content: Content, part: str, serves: bytes) -> None:
    ours = re.compile(_METHODS + b" /" + serves + rb"/\S* HTTP/1")
    server = Server(site.addresses[part])
    seen: Counter[int] = Counter()

    @settings(
        max_examples=count(1000, 8000),
        deadline=None,
        derandomize=count(1, 0) == 1,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        database=None,
    )
    @given(any_request)
    def check(request: bytes) -> None:
        answer = server.raw(request)
        if answer:
            seen[check_answer(answer, is_ours=ours.match(request) is not None)] += 1

    check()
    assert server.get("/livez").status == 200
    assert {200, 400, 404} <= set(seen)
    complaints = [line for line in site.log().splitlines() if "Traceback" in line or " ERROR " in line]
    assert complaints == []


def check_answer(answer: bytes, *, is_ours: bool) -> int:
    """The status of the first answer; it has the form of its kind."""
    match = _STATUS.match(answer)
    assert match is not None, answer[:200]
    status = int(match[1])
    assert status in _ALLOWED, answer[:1000]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"\r\n{INJECTED}".lower().encode() not in head.lower()
    if status >= 400 and status != 417 and body and (is_ours or b"application/json" in head):
        document = json.loads(body)
        if isinstance(document.get("error"), str):  # of the token realm
            assert document["error"] in _TOKEN_ERRORS
        elif "error" in document:
            assert _CODES.match(document["error"]["code"])
        else:
            error = document["errors"][0]
            assert error["code"] in _SPEC_CODES or status >= 500
            assert error["message"]
    return status


def test_nothing_is_kept_that_should_not_be(site: Site, content: Content) -> None:
    """After all of the above: the store has verified content under its digests, and records of proper names."""
    root = site.base / "site"
    assert [entry.name for entry in root.iterdir() if not re.fullmatch(r"([a-z]+(\.lock)?|\.egress)", entry.name)] == []
    for kind in ("blobs", "manifests"):
        for path in (root / kind).rglob("*"):
            if path.is_file() and not path.suffix:
                assert Digest.of(path.read_bytes(), path.parent.name).hex == path.name
    for record in (root / "tags").rglob("_tags/*.json"):
        upstream, *repository = record.relative_to(root / "tags").parent.parts[:-1]
        assert upstream == "up"
        assert is_name("/".join(repository))
        assert is_tag(record.stem)
    assert not list(Path(site.base).rglob("etc"))
