"""Which peers a peer is introduced to. Pure.

Half of an answer comes from the asker's own rack and a quarter from its zone, as far as there are such peers: bytes
stay near. The rest comes from the whole site by chance, which keeps thousands of nodes one well-connected graph.
Seeds and partial peers come half and half: only seeds have everything, but many partial peers have more to give.
Among those drawn, who was handed out least goes first, so that nobody's connections run full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from seeder.tracker.announce import Endpoint
from seeder.tracker.peers import Peer, Place

_INTRODUCED = attrgetter("introduced")


def choose(candidates: Sequence[Peer], asker: Endpoint, place: Place, wanted: int) -> list[Peer]:
    """At most ``wanted`` different peers out of those drawn, never the asker itself."""
    # Not a set: its order depends on where peers are in memory, and the same dice are to give the same answers.
    drawn = sorted(dict.fromkeys(peer for peer in candidates if peer.endpoint != asker), key=_INTRODUCED)
    if not drawn or wanted <= 0:
        return []
    chosen: dict[Peer, None] = {}
    if place.rack:
        _take(chosen, [peer for peer in drawn if peer.place == place], wanted // 2)
    if place.zone:
        _take(chosen, [peer for peer in drawn if peer.place.zone == place.zone], wanted // 4)
    _take(chosen, drawn, wanted - len(chosen))
    return list(chosen)


def _take(chosen: dict[Peer, None], peers: Iterable[Peer], count: int) -> None:
    """``count`` more of them, seeds and partial peers by turns while there are both."""
    seeds: list[Peer] = []
    partials: list[Peer] = []
    for peer in peers:
        if peer not in chosen:
            (seeds if peer.is_seed else partials).append(peer)
    half = max(count - count // 2, count - len(partials))
    of_seeds = seeds[:half]
    for peer in of_seeds + partials[: count - len(of_seeds)]:
        chosen[peer] = None
