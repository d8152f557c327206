"""The pull half of the OCI distribution spec 1.1, case by case; each names the section that wants it.

Every case is put to the site's proxy and to a node's mirror, before a docker-registry 2.8, which has neither pages of
tags nor referrers: both must have them all the same.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from imagedist.oci.digest import Digest
from imagedist.oci.manifest import DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST
from tests.conformance.asking import Server
from tests.conformance.content import BLOB, LONG_NAME, LONG_TAG, SBOM, SIGNATURE, TAGS, Content

pytestmark = pytest.mark.e2e("docker-registry")

SECTIONS = (
    "Determining Support",
    "Pulling manifests",
    "Pulling blobs",
    "Checking if content exists in the registry",
    "Listing Tags",
    "Listing Referrers",
    "Referrers Tag Schema",
    "Registry Proxying",
    "Endpoints",
    "Error Codes",
    "Legacy Docker support HTTP headers",
    "RFC 9110",
)
UNKNOWN = Digest.of(b"nobody has this")
APP = "/v2/up/team/app"


# Determining Support


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_registry_says_that_it_is_one(server: Server, path: str) -> None:
    """Determining Support"""
    for answer in (server.get(path), server.head(path)):
        assert answer.status == 200


def test_api_version_is_told_to_old_clients(server: Server) -> None:
    """Legacy Docker support HTTP headers"""
    assert server.get("/v2/").headers["Docker-Distribution-Api-Version"] == "registry/2.0"


# Pulling manifests


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_manifest_is_given_as_it_was_pushed(server: Server, content: Content, by: str) -> None:
    """Pulling manifests: 200, the very bytes, the pushed Content-Type without parameters, the digest."""
    answer = server.get(f"{APP}/manifests/{'1' if by == 'tag' else content.manifest}")
    assert (answer.status, answer.body) == (200, content.manifest_bytes)
    assert answer.headers["Content-Type"] == OCI_MANIFEST
    assert answer.headers["Docker-Content-Digest"] == str(content.manifest)
    assert answer.headers["Content-Length"] == str(len(content.manifest_bytes))


@pytest.mark.parametrize("accept", [None, "*/*", OCI_MANIFEST, "text/plain", f"{OCI_INDEX};q=0, {OCI_MANIFEST}"])
def test_index_is_given_whatever_is_accepted(server: Server, content: Content, accept: str | None) -> None:
    """Pulling manifests: Accept SHOULD be sent; a digest names one document, so nothing is converted."""
    headers = {"Accept": accept} if accept else {}
    for tag, media_type, body in (
        ("index", OCI_INDEX, content.index_bytes),
        ("list", DOCKER_INDEX, content.list_bytes),
    ):
        answer = server.get(f"{APP}/manifests/{tag}", headers)
        assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, media_type, body)


def test_layer_with_foreign_urls_is_left_to_the_client(server: Server, content: Content) -> None:
    """Pulling manifests: what a descriptor says is the client's to read; the mirror fetches nothing because of it."""
    assert b"https://store.example/layer" in server.get(f"{APP}/manifests/{content.manifest}").body


@pytest.mark.parametrize("tag", [LONG_TAG, "10", "C"])
def test_every_tag_of_the_grammar_is_a_tag(server: Server, content: Content, tag: str) -> None:
    """Pulling manifests: at most 128 characters of [a-zA-Z0-9_][a-zA-Z0-9._-]*."""
    assert server.get(f"/v2/up/team/tags/manifests/{tag}").body == content.manifest_bytes


@pytest.mark.parametrize("tag", ["unknown", "T" * 129, ".INVALID_MANIFEST_NAME", "-a", "a%20b", "%C3%A4", "a%00b"])
def test_what_is_not_there_is_404(server: Server, tag: str) -> None:
    """Pulling manifests: 404 when the manifest is not found."""
    for method in ("GET", "HEAD"):
        assert server.ask(method, f"{APP}/manifests/{tag}").status == 404
    assert server.get(f"{APP}/manifests/{tag}").code == "MANIFEST_UNKNOWN"


def test_unknown_digest_is_404(server: Server) -> None:
    """Pulling manifests: 404 when the manifest is not found."""
    answer = server.get(f"{APP}/manifests/{UNKNOWN}")
    assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")


def test_longest_name_is_a_name(server: Server, content: Content) -> None:
    """Pulling manifests: names match the grammar; clients know 255 characters."""
    assert server.get(f"/v2/up/{LONG_NAME}/manifests/1").body == content.manifest_bytes


@pytest.mark.parametrize(
    "name", ["Upper/a", "a..b", "a___b", "a.-b", "-a", "a-", "a//b", "a/../b", "a%2F..%2F..%2Fb", "%2e%2e", "n" * 256]
)
def test_what_is_no_name_is_refused(server: Server, name: str) -> None:
    """Error Codes: NAME_INVALID"""
    answer = server.get(f"/v2/{name}/manifests/1")
    assert (answer.status, answer.code) == (400, "NAME_INVALID")


@pytest.mark.parametrize(
    "digest", ["sha256:totallywrong", f"sha256:{UNKNOWN.hex.upper()}", f"md5:{'0' * 32}", "sha256:"]
)
def test_what_is_no_digest_is_refused(server: Server, digest: str) -> None:
    """Error Codes: DIGEST_INVALID"""
    for kind in ("blobs", "manifests", "referrers"):
        answer = server.get(f"{APP}/{kind}/{digest}")
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


# Pulling blobs, Checking if content exists in the registry


def test_blob_is_given_whole_with_its_digest(server: Server, content: Content) -> None:
    """Pulling blobs: 200, the bytes, Docker-Content-Digest."""
    answer = server.get(f"{APP}/blobs/{content.blob}")
    assert (answer.status, answer.body) == (200, BLOB)
    assert answer.headers["Docker-Content-Digest"] == str(content.blob)
    assert "Content-Encoding" not in answer.headers


def test_blob_of_another_algorithm(server: Server, content: Content) -> None:
    """Pulling blobs: sha512 is a registered algorithm."""
    answer = server.get(f"{APP}/blobs/{content.sha512_blob}")
    assert (answer.status, answer.body) == (200, BLOB[:1000])
    assert answer.headers["Docker-Content-Digest"] == str(content.sha512_blob)


def test_unknown_blob_is_404(server: Server) -> None:
    """Pulling blobs: 404 when the blob is not found."""
    answer = server.get(f"{APP}/blobs/{UNKNOWN}")
    assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")


def test_head_of_a_blob_has_digest_and_length(server: Server, content: Content) -> None:
    """Checking if content exists in the registry"""
    answer = server.head(f"{APP}/blobs/{content.blob}")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Docker-Content-Digest"] == str(content.blob)
    assert answer.headers["Content-Length"] == str(len(BLOB))
    assert server.head(f"{APP}/blobs/{UNKNOWN}").status == 404


def test_head_of_a_manifest_has_digest_and_length(server: Server, content: Content) -> None:
    """Checking if content exists in the registry"""
    for reference in ("1", content.manifest):
        answer = server.head(f"{APP}/manifests/{reference}")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["Docker-Content-Digest"] == str(content.manifest)
        assert answer.headers["Content-Length"] == str(len(content.manifest_bytes))
        assert answer.headers["Content-Type"] == OCI_MANIFEST


# Ranges and conditions


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=1048000-", 1048000, len(BLOB) - 1),
        ("bytes=-7", len(BLOB) - 7, len(BLOB) - 1),
        ("bytes=-99999999", 0, len(BLOB) - 1),
        ("bytes=1-99999999", 1, len(BLOB) - 1),
        ("bytes=0-", 0, len(BLOB) - 1),
    ],
)
def test_range_of_a_blob(server: Server, content: Content, asked: str, first: int, last: int) -> None:
    """Pulling blobs: the Range request header SHOULD be supported (RFC 9110 §14)."""
    answer = server.get(f"{APP}/blobs/{content.blob}", {"Range": asked})
    assert (answer.status, answer.body) == (206, BLOB[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(BLOB)}"


@pytest.mark.parametrize("asked", [f"bytes={len(BLOB)}-", "bytes=-0", f"bytes={len(BLOB)}-{len(BLOB) + 5}"])
def test_range_outside_of_the_blob_is_416(server: Server, content: Content, asked: str) -> None:
    """RFC 9110 §15.5.17"""
    answer = server.get(f"{APP}/blobs/{content.blob}", {"Range": asked})
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{len(BLOB)}")
    assert answer.code == "SIZE_INVALID"


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,5-6", "bytes=5-2", "bytes=a-b", "items=0-1", "bytes", "bytes=--1", "b" * 4000]
)
def test_range_that_means_nothing_to_us_is_ignored(server: Server, content: Content, asked: str) -> None:
    """RFC 9110 §14.2: a server MAY ignore the Range header field."""
    answer = server.get(f"{APP}/blobs/{content.blob}", {"Range": asked})
    assert (answer.status, len(answer.body)) == (200, len(BLOB))


def test_range_is_for_get_alone(server: Server, content: Content) -> None:
    """RFC 9110 §14.2: Range with another method MUST be ignored."""
    answer = server.head(f"{APP}/blobs/{content.blob}", {"Range": "bytes=0-1"})
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(BLOB)))


def test_range_of_another_version_is_not_sent(server: Server, content: Content) -> None:
    """RFC 9110 §13.1.5: If-Range compares strongly."""
    for tag, status in ((f'"{content.blob}"', 206), (f'W/"{content.blob}"', 200), ('"other"', 200)):
        answer = server.get(f"{APP}/blobs/{content.blob}", {"Range": "bytes=0-1", "If-Range": tag})
        assert answer.status == status


def test_what_the_client_has_is_not_sent_again(server: Server, content: Content) -> None:
    """RFC 9110 §13.1.2: If-None-Match compares weakly, in lists too."""
    for path, digest in (("blobs", content.blob), ("manifests", content.manifest)):
        at = f"{APP}/{path}/{digest}"
        tag = server.head(at).headers["ETag"]
        for header in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            for method in ("GET", "HEAD"):
                answer = server.ask(method, at, {"If-None-Match": header})
                assert (answer.status, answer.headers["ETag"]) == (304, tag)
        assert server.get(at, {"If-None-Match": '"other"'}).status == 200
        assert server.get(at, {"If-Match": '"other"'}).status == 412
        unknown = server.get(f"{APP}/{path}/{UNKNOWN}", {"If-None-Match": "*"})
        assert unknown.status == 404


# Listing Tags


def tags(server: Server, query: str = "") -> tuple[list[str], str | None]:
    answer = server.get(f"/v2/up/team/tags/tags/list{query}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json["name"] == "up/team/tags"
    return answer.json["tags"], answer.headers.get("Link")


def test_tags_are_listed_in_order(server: Server) -> None:
    """Listing Tags: in lexical or ASCII order."""
    assert tags(server) == (sorted(TAGS), None)


def test_pages_of_tags_are_linked_to_the_end(server: Server) -> None:
    """Listing Tags: exactly n of them, and a Link with rel="next" while there are more."""
    seen: list[str] = []
    query = "?n=2"
    while query:
        page, link = tags(server, query)
        assert len(page) == 2
        seen += page
        query = ""
        if link is not None:
            assert link.endswith('>; rel="next"')
            path, _, more = link[1 : link.index(">")].partition("?")
            assert path == "/v2/up/team/tags/tags/list"
            query = f"?{more}"
    assert seen == sorted(TAGS)


def test_no_tags_asked_for(server: Server) -> None:
    """Listing Tags: n=0 MUST be an empty list without a Link."""
    assert tags(server, "?n=0") == ([], None)


def test_tags_begin_behind_the_last_one(server: Server) -> None:
    """Listing Tags: non-inclusively; n is optional."""
    assert tags(server, "?last=a") == (["b", "d"], None)
    assert tags(server, "?n=1&last=a") == (["b"], '</v2/up/team/tags/tags/list?n=1&last=b>; rel="next"')
    assert tags(server, "?n=5&last=d") == ([], None)
    assert tags(server, "?n=100") == (sorted(TAGS), None)


@pytest.mark.parametrize("count", ["-1", "x", "", "1e3", "%31%2F", "9" * 30])
def test_number_of_tags_is_an_integer(server: Server, count: str) -> None:
    """Listing Tags: <int>"""
    answer = server.get(f"/v2/up/team/tags/tags/list?n={count}")
    assert (answer.status, answer.code) == (400, "UNSUPPORTED")


def test_tags_of_an_unknown_repository_are_404(server: Server) -> None:
    """Endpoints: end-8a fails with 404."""
    answer = server.get("/v2/up/team/unknown/tags/list")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")


# Listing Referrers


def test_referrers_of_a_registry_without_that_api(server: Server, content: Content) -> None:
    """Referrers Tag Schema: the index tagged sha256-<hex> is the answer."""
    answer = server.get(f"{APP}/referrers/{content.manifest}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, OCI_INDEX)
    assert answer.json["manifests"] == content.referrers
    assert "OCI-Filters-Applied" not in answer.headers


@pytest.mark.parametrize("artifact_type", [SBOM, SIGNATURE, "application/none"])
def test_referrers_of_one_kind(server: Server, content: Content, artifact_type: str) -> None:
    """Listing Referrers: filtered by artifactType, and said so in OCI-Filters-Applied."""
    answer = server.get(f"{APP}/referrers/{content.manifest}?artifactType={artifact_type}")
    assert answer.headers["OCI-Filters-Applied"] == "artifactType"
    wanted = [one for one in content.referrers if one["artifactType"] == artifact_type]
    assert answer.json["manifests"] == wanted


@pytest.mark.parametrize("repository", ["team/app", "team/unknown"])
def test_no_referrers_are_an_empty_index(server: Server, repository: str) -> None:
    """Listing Referrers: MUST NOT be a 404 where the API is supported."""
    answer = server.get(f"/v2/up/{repository}/referrers/{UNKNOWN}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, OCI_INDEX)
    assert answer.json == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


# Registry Proxying, Error Codes, Endpoints


def test_namespace_names_the_upstream_and_is_acknowledged(server: Server, content: Content) -> None:
    """Registry Proxying: OCI-Namespace has the value of ns."""
    for path in (f"manifests/{content.manifest}", f"blobs/{content.blob}", "tags/list", f"referrers/{UNKNOWN}"):
        answer = server.get(f"/v2/team/app/{path}?ns=registry.example:5000")
        assert (answer.status, answer.headers["OCI-Namespace"]) == (200, "registry.example:5000")
    assert "OCI-Namespace" not in server.get(f"{APP}/manifests/1").headers


def test_unknown_upstream_is_an_unknown_name(server: Server) -> None:
    """Error Codes: NAME_UNKNOWN"""
    for path in ("/v2/team/app/manifests/1?ns=other.example", "/v2/other/app/manifests/1"):
        answer = server.get(path)
        assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")


@pytest.mark.parametrize("namespace", ["", "a%0d%0ab", "%00", "a%2Fb", "a" * 300, "%ff"])
def test_malformed_namespace_is_refused(server: Server, namespace: str) -> None:
    """Registry Proxying: ns is a host."""
    answer = server.get(f"/v2/team/app/manifests/1?ns={namespace}")
    assert (answer.status, answer.code) == (400, "NAME_INVALID")
    assert "OCI-Namespace" not in answer.headers


def test_upstream_that_cannot_be_reached_sends_clients_on(server: Server) -> None:
    """Error Codes: never 404, which would say that there is no such image; never 429, which containerd repeats."""
    answer = server.get("/v2/gone/app/manifests/1")
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "blobs/uploads/"),
        ("POST", f"blobs/uploads/?digest={UNKNOWN}"),
        ("PATCH", "blobs/uploads/11111111-1111"),
        ("PUT", f"blobs/uploads/11111111-1111?digest={UNKNOWN}"),
        ("PUT", "manifests/1"),
        ("DELETE", "manifests/1"),
        ("DELETE", f"blobs/{UNKNOWN}"),
    ],
)
def test_push_is_refused_and_told_where_it_belongs(server: Server, method: str, path: str) -> None:
    """Error Codes: UNSUPPORTED; RFC 9110 §15.5.6: 405 has Allow."""
    answer = server.ask(method, f"/v2/team/app/{path}{'&' if '?' in path else '?'}ns=registry.example:5000", body=b"{}")
    assert (answer.status, answer.headers["Allow"], answer.code) == (405, "GET, HEAD", "UNSUPPORTED")
    message = answer.json["errors"][0]["message"]
    assert "push to" in message
    assert "itself" in message


@pytest.mark.parametrize("path", ["/v2/_catalog", "/v2/team", "/v2/up/team/app/tags", "/v2//", "/v2/a/blobs/uploads/1"])
def test_what_is_no_route_is_404(server: Server, path: str) -> None:
    """Endpoints: no other routes; the catalog is none of the spec's."""
    answer = server.get(path)
    assert (answer.status, answer.code) == (404, "UNSUPPORTED")


def test_every_case_names_its_section() -> None:
    """Endpoints: what this list is derived from."""
    functions = [one for one in ast.parse(Path(__file__).read_text()).body if isinstance(one, ast.FunctionDef)]
    cases = {one.name: ast.get_docstring(one) or "" for one in functions if one.name.startswith("test_")}
    assert [name for name, text in cases.items() if not text.startswith(SECTIONS)] == []
