"""How lower directories are named in a mount's one page of options."""

from __future__ import annotations

import os
from pathlib import Path

from imagedist.snapshotter.mounts import Lower, lower_names

STORE = Path("/var/lib/imagedist/storage")


def lent(number: int) -> Lower:
    return Lower(STORE / "overlay" / f"{number:064}" / "diff", STORE / "imagedist/lent" / f"{number:026}", is_own=False)


def own(number: int) -> Lower:
    return Lower(STORE / f"imagedist/snapshots/{number}/fs", STORE / f"imagedist/lent/{number}", is_own=True)


def relative_bytes(names: list[Path]) -> int:
    """As containerd writes them when they are long: from the directory that they have in common."""
    common = os.path.commonpath([path.parent for path in names])
    return sum(len(str(path)) - len(common) for path in names)


def test_a_few_are_named_by_their_real_paths() -> None:
    lowers = [own(7), *(lent(number) for number in range(25))]
    assert lower_names(lowers) == [lower.path for lower in lowers]


def test_of_many_the_stores_layers_are_named_by_their_links_and_containerds_own_as_they_are() -> None:
    lowers = [*(own(number) for number in range(10)), *(lent(number) for number in range(90))]
    names = lower_names(lowers)
    assert names == [lower.path if lower.is_own else lower.short for lower in lowers]
    assert relative_bytes(names) < 3584


def test_of_containerds_own_128_are_named_as_they_are() -> None:
    lowers = [own(10_000 + number) for number in range(128)]
    names = lower_names(lowers)
    assert names == [lower.path for lower in lowers]
    assert relative_bytes(names) < 3584


def test_128_fit_into_a_page_in_any_case() -> None:
    for lowers in (
        [lent(number) for number in range(128)],
        [own(7), *(lent(number) for number in range(127))],
    ):
        names = lower_names(lowers)
        assert names == [lower.short for lower in lowers]
        assert relative_bytes(names) < 3584
