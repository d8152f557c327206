"""The measured base layers: the tallest stacks that many images share."""

from __future__ import annotations

from imagedist.oci.digest import Digest
from imagedist.preheat.shapes import KnownImage, KnownLayer
from seeder.preheat.suggest import suggest

SIZES = {"os": 50, "py": 30, "jdk": 90}


def known(name: str, *layers: str) -> KnownImage:
    return KnownImage(
        reference=f"r.example/{name}:1",
        digest=Digest.of(name.encode()),
        layers=tuple(KnownLayer(digest=Digest.of(each.encode()), size_bytes=SIZES.get(each, 1)) for each in layers),
    )


def stacks(*images: KnownImage, share: float = 0.5, count: int = 5) -> list[tuple[int, int, str, bool]]:
    return [
        (len(each.layers), each.images, each.carrier.split("/")[1], each.is_exact)
        for each in suggest(images, share, count)
    ]


def test_only_the_tallest_stack_that_the_same_images_share_counts() -> None:
    images = (known("a", "os", "py", "a"), known("b", "os", "py", "b"), known("base", "os", "py"))
    assert stacks(*images) == [(2, 3, "base:1", True)]


def test_a_lower_stack_counts_when_more_images_stand_upon_it() -> None:
    images = (known("a", "os", "py", "a"), known("b", "os", "py", "b"), known("c", "os", "jdk", "c"))
    assert stacks(*images) == [(1, 3, "a:1", False), (2, 2, "a:1", False)]
    assert stacks(*images, share=0.9) == [(1, 3, "a:1", False)]
    assert stacks(*images, count=1) == [(1, 3, "a:1", False)]


def test_the_same_layers_by_another_tag_are_no_other_image() -> None:
    assert stacks(known("a", "os", "a"), known("again", "os", "a")) == []
    assert stacks(known("a", "os"), known("b"), known("c", "py")) == []


def test_the_same_layers_higher_up_are_nothing_to_stand_upon() -> None:
    assert stacks(known("a", "os", "py"), known("b", "jdk", "py")) == []
