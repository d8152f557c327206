"""The measured base layers: stacks of layers that many of the site's images stand upon. Pure.

A stack is what a node can have unpacked before an image comes: layers from the base on. Of stacks that the same images
share, only the tallest counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from imagedist.oci.digest import Digest
from imagedist.preheat.shapes import KnownImage, Suggestion

_Stack = tuple[Digest, ...]


def suggest(images: Sequence[KnownImage], share: float, count: int) -> list[Suggestion]:
    """The stacks that at least ``share`` of the images share, those that save most first, ``count`` at most.

    What one saves is its bytes, once for each image but the first: that is what scaling out need not move. Images
    with the same layers count once: another tag is no other image.
    """
    distinct: dict[_Stack, KnownImage] = {}
    for image in images:
        if image.layers:
            distinct.setdefault(tuple(layer.digest for layer in image.layers), image)
    standing: dict[_Stack, list[KnownImage]] = defaultdict(list)
    for layers, image in distinct.items():
        for height in range(1, len(layers) + 1):
            standing[layers[:height]].append(image)
    least = max(2, share * len(distinct))
    shared = {stack: upon for stack, upon in standing.items() if len(upon) >= least}
    tallest = {
        stack: upon
        for stack, upon in shared.items()
        if not any(
            len(other) > len(stack) and other[: len(stack)] == stack and len(shared[other]) == len(upon)
            for other in shared
        )
    }
    found = [_suggestion(stack, upon, len(distinct)) for stack, upon in tallest.items()]
    return sorted(found, key=lambda each: (-each.size_bytes * (each.images - 1), each.carrier))[:count]


def _suggestion(stack: _Stack, upon: Sequence[KnownImage], total: int) -> Suggestion:
    carrier = min(upon, key=lambda image: (sum(layer.size_bytes for layer in image.layers), image.reference))
    size_bytes = sum(layer.size_bytes for layer in carrier.layers[: len(stack)])
    return Suggestion(
        layers=stack,
        size_bytes=size_bytes,
        images=len(upon),
        share=round(len(upon) / total, 3),
        carrier=carrier.reference,
        is_exact=len(carrier.layers) == len(stack),
    )
