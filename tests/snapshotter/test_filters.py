"""containerd's filter expressions."""

from __future__ import annotations

import pytest

from imagedist.errors import InputError
from imagedist.snapshotter.filters import parse_filters
from imagedist.snapshotter.snapshot import Kind, Snapshot

SNAPSHOT = Snapshot(
    1,
    "k8s.io/5/app",
    "k8s.io/4/base",
    Kind.COMMITTED,
    0,
    0,
    {"foo": "bar", "containerd.io/snapshot.ref": "sha256:ab", "with.dots": "x", 'odd "key"\n': "y", "number": "12"},
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kind==committed",
        "name==k8s.io/5/app",
        "name",
        "labels.foo",
        "labels.foo==bar",
        "labels.foo!=baz",
        "labels.missing!=anything",
        "labels.foo==bar,kind==committed",
        " labels.foo == bar , kind == committed ",
        'labels."containerd.io/snapshot.ref"==sha256:ab,parent=="k8s.io/4/base"',
        "labels.with.dots==x",
        'labels."odd \\"key\\"\\n"==y',
        'labels.foo=="\\x62\\141\\u0072"',
        "labels.number~=^[0-9]+$",
        "name~=/k8s.io\\/5/",
        "name~=|io/5|",
        'name~="app$"',
        "labels.missing~=^$",
    ],
)
def test_matches(text: str) -> None:
    assert parse_filters([text])(SNAPSHOT)


@pytest.mark.parametrize(
    "text",
    [
        "kind==active",
        "name==app",
        "labels.missing",
        "labels.foo!=bar",
        "labels.foo==bar,kind==view",
        "labels==bar",
        "unknown",
        "unknown==x",
        "labels.number~=^[a-z]+$",
        "labels.number~=(",
    ],
)
def test_does_not_match(text: str) -> None:
    assert not parse_filters([text])(SNAPSHOT)


@pytest.mark.parametrize(
    "text",
    [
        "==x",
        "name==",
        "name=x",
        "name===x",
        "name x",
        "name==a b",
        ",",
        "name,",
        'name=="open',
        "name==/no/",
        'name=="\\q"',
        'name=="\\U99999999"',
        "labels.",
        "näme",
        "x" * 20_000,
    ],
)
def test_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InputError, match="filter"):
        parse_filters([text])


def test_several_filters_are_alternatives() -> None:
    assert parse_filters(["name==x", "labels.foo"])(SNAPSHOT)
    assert not parse_filters(["name==x", "name==y"])(SNAPSHOT)
    assert parse_filters([])(SNAPSHOT)
