"""docs/layers.md says of each case what the tests find."""

from __future__ import annotations

from pathlib import Path

from tests.golden.cases import CASES

DOCUMENT = Path(__file__).parents[2] / "docs" / "layers.md"


def told(known: str) -> str:
    if not known:
        return "same"
    return known.replace("differs:", "other") if known.startswith("differs") else f"refuses: {known}"


def test_table_lists_where_podman_and_umoci_differ() -> None:
    rows = [line.strip("| ").split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")][1:]
    expected = [[case.name, told(case.podman), told(case.umoci)] for case in CASES if case.podman or case.umoci]
    assert [row[:3] for row in rows] == expected


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
