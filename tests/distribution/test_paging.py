"""Lists of upstreams that page, that do not, and that send nonsense."""

from __future__ import annotations

import json
from typing import Any

import pytest

from imagedist.distribution.backend import Page, Target
from imagedist.distribution.paging import no_referrers, referrers_page, tags_page
from imagedist.errors import SourceError
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_INDEX

TARGET = Target("registry.local", "team/app")
DIGEST = Digest.of(b"")
SBOM, SIGNATURE = "application/vnd.example.sbom", "application/vnd.example.signature"


def tags(upstream: list[str] | None, query: dict[str, str], link: str | None = None) -> tuple[list[str], str | None]:
    page = tags_page(Page(json.dumps({"name": "x", "tags": upstream}).encode(), "text/html", link), TARGET, query)
    document = json.loads(page.body)
    assert document["name"] == TARGET.name
    assert page.media_type == "application/json"
    return document["tags"], page.link


def test_registry_that_knows_no_pages_is_paged_for() -> None:
    everything = ["b", "a", "d", "C", "10"]
    seen, query = [], {"n": "2"}
    for link in (
        '</v2/team/app/tags/list?n=2&last=C&ns=registry.local>; rel="next"',
        '</v2/team/app/tags/list?n=2&last=b&ns=registry.local>; rel="next"',
        None,
    ):
        page, next_link = tags(everything, query)
        assert next_link == link
        seen += page
        query["last"] = page[-1]
    assert seen == sorted(everything)


def test_whole_list_comes_in_order() -> None:
    assert tags(["b", "a"], {}) == (["a", "b"], None)
    assert tags(None, {}) == ([], None)


def test_behind_the_last_there_is_nothing() -> None:
    assert tags(["a", "b"], {"last": "b"}) == ([], None)
    assert tags(["a", "b"], {"n": "5", "last": "b"}) == ([], None)


def test_none_asked_for_is_none_sent_and_no_link() -> None:
    assert tags(["a"], {"n": "0"}, '</v2/team/app/tags/list?n=1&last=a>; rel="next"') == ([], None)


def test_upstreams_own_pages_keep_their_order_and_its_link() -> None:
    """Some registries page by age, with a cursor of their own."""
    link = '<https://registry/v2/team/app/tags/list?n=2&last=v1&cursor=%2Fx>; rel="next"'
    assert tags(["v9", "v1"], {"n": "2"}, link) == (
        ["v9", "v1"],
        '</v2/team/app/tags/list?n=2&last=v1&cursor=%2Fx&ns=registry.local>; rel="next"',
    )
    assert tags(["v3", "v2"], {"n": "2", "last": "v9"}) == (["v3", "v2"], None)


@pytest.mark.parametrize(
    "link",
    ["", "nonsense", "<", "</x>", '</x>; rel="prev"', '</x?a=1>; rel="previous-next"', '</x?next>; title="next"'],
)
def test_what_is_no_link_to_a_next_page_is_dropped(link: str) -> None:
    assert tags(["a"], {"n": "1"}, link) == (["a"], None)


@pytest.mark.parametrize(
    "link", ["</x?n=1>;rel=next", '</y>; rel="prev", </x?n=1>; rel="next"', '</x?n=1>; REL="next"']
)
def test_link_is_read_as_the_rfc_writes_it(link: str) -> None:
    assert tags(["a"], {"n": "1"}, link)[1] == '</v2/team/app/tags/list?n=1&ns=registry.local>; rel="next"'


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"tags": 1}', b'{"tags": [1]}', b"[" * 100_000])
def test_what_is_no_list_of_tags_is_the_upstreams_failure(body: bytes) -> None:
    with pytest.raises(SourceError):
        tags_page(Page(body, "application/json"), TARGET, {})


def test_tags_that_no_encoding_has_are_escaped() -> None:
    page = tags_page(Page(b'{"tags": ["\\ud800", "\\ud801"]}', "application/json"), TARGET, {"n": "1"})
    assert json.loads(page.body)["tags"] == ["\ud800"]
    assert page.link == '</v2/team/app/tags/list?n=1&last=%3F&ns=registry.local>; rel="next"'


def index(*artifact_types: str) -> dict[str, Any]:
    entries = [{"digest": str(DIGEST), "artifactType": one, "annotations": {"a": "b"}} for one in artifact_types]
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, "annotations": {"kept": "yes"}}


def test_referrers_are_filtered_where_the_upstream_does_not() -> None:
    upstream = Page(json.dumps(index(SBOM, SIGNATURE)).encode(), "application/json")
    page = referrers_page(upstream, TARGET, DIGEST, {"artifactType": SIGNATURE})
    assert page is not None
    assert json.loads(page.body) == index(SIGNATURE)
    assert (page.media_type, page.filters_applied) == (OCI_INDEX, "artifactType")
    whole = referrers_page(upstream, TARGET, DIGEST, {})
    assert whole is not None
    assert (whole.body, whole.filters_applied) == (upstream.body, None)


def test_what_the_upstream_filtered_is_passed_on_with_its_link() -> None:
    link = f'</v2/app/referrers/{DIGEST}?page=2>; rel="next"'
    upstream = Page(json.dumps(index()).encode(), OCI_INDEX, link, "artifactType")
    page = referrers_page(upstream, TARGET, DIGEST, {"artifactType": SBOM})
    assert page is not None
    assert (page.body, page.filters_applied) == (upstream.body, "artifactType")
    assert page.link == (
        f"</v2/team/app/referrers/{DIGEST}?artifactType=application%2Fvnd.example.sbom&page=2&ns=registry.local>; "
        'rel="next"'
    )


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"schemaVersion": 2}', b'{"schemaVersion": 2, "manifests": [1]}']
)
def test_what_is_no_index_is_no_answer_about_referrers(body: bytes) -> None:
    assert referrers_page(Page(body, OCI_INDEX), TARGET, DIGEST, {}) is None


def test_no_referrers_is_an_empty_index() -> None:
    assert json.loads(no_referrers({}).body) == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    assert no_referrers({"artifactType": SBOM}).filters_applied == "artifactType"
