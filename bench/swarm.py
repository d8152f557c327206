"""How long N nodes of a site take for a new image, beside one plain download over such a link; what the site sends."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.burst import Burst
from bench.bursts import KRAKEN, STRAIGHT
from bench.directories import short_directory
from bench.kraken_network import kraken_network
from bench.machine import Start, described
from bench.network.kraken import PIECE, kraken_missing, kraken_version
from bench.preflight import check_memory, need
from bench.processes import run as run_program
from bench.result import Contestant, ImageFacts, Keep, Result
from bench.statistics import median, rotated
from bench.swarm_network import AGENT_BYTES, BLOBS, SITE_TIMES, Configuration, SwarmNetwork, swarm_network
from bench.swarm_rows import PLAIN, Bursts, against, plain_row, row_of, verdicts_of
from imagedist.errors import ImagedistError
from imagedist.service.running import raise_open_files_limit

Say = Callable[[str], None]

_DEFAULTS = Configuration()


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything.

    Args:
        nodes: how many at once, each number as often as the others.
        image_bytes: in two blobs.
        node_bits_per_second: a node's link, each way.
        configuration: what the programs have beside their defaults.
        is_straight_too: whether as many nodes also read straight from the registry, which takes long.
        kraken_pieces: lengths of Kraken's pieces, as it writes sizes; the same bursts for each.
        is_warm: whether the site has an image before nodes ask.
    """

    nodes: Sequence[int]
    image_bytes: int
    node_bits_per_second: int
    rounds: int
    configuration: Configuration = _DEFAULTS
    is_straight_too: bool = False
    kraken_pieces: Sequence[str] = ()
    is_warm: bool = False

    @property
    def image_seconds(self) -> float:
        return self.image_bytes * 8 / self.node_bits_per_second

    @property
    def memory_bytes(self) -> int:
        """What agents and files will take at most: registry and site keep every image, a node three, Kraken's all."""
        images = self.rounds * len(self.nodes) * (2 if self.is_straight_too else 1)
        nodes = 3 * max(self.nodes)
        if self.kraken_pieces:
            nodes = max(nodes, self.rounds * sum(self.nodes))
        return max(self.nodes) * AGENT_BYTES + (nodes + 2 * images) * self.image_bytes


KRAKEN_PIECES = (PIECE, "64KB")
"""Its own, and one as small beside a burst's image as its own are beside a large one: images here are small, for links
are. imagedist's are 64 KiB."""
FULL = Scale((1, 2, 4, 8), 100_000_000, 32_000_000, 5)
QUICK = Scale((1, 2, 4), 12_000_000, 32_000_000, 2)


def run(scale: Scale, say: Say, keep: Keep) -> Result:
    """A burst lasts a little more than the image needs over one link; there are ``rounds`` for each number of nodes.

    Raises:
        InputError: this machine cannot have a test network, has no docker-registry, or too little memory.
        ImagedistError: something did not start, or a node did not get everything.
    """
    check(scale)
    raise_open_files_limit()
    start = Start.now()
    rows, plain, not_run = [Bursts(count) for count in scale.nodes], list[float](), list[Contestant]()
    if scale.is_straight_too:
        rows += [Bursts(count, series=STRAIGHT) for count in scale.nodes]
    with short_directory() as directory:

        def known() -> Result:
            found = _result(scale, directory, rows, plain, not_run, start)
            keep(found)
            return found

        say(f"starting a registry, a site and {max(scale.nodes)} agents")
        sizes = (max(scale.nodes), scale.node_bits_per_second, scale.image_bytes)
        with short_directory() as own, swarm_network(own, *sizes, scale.configuration) as running:
            running.warm_up()
            for number in range(scale.rounds):
                for _ in _round(running, scale, number, rows, plain, say):
                    result = known()
        if scale.kraken_pieces and (reason := kraken_missing()) is not None:
            say(f"will not run: {KRAKEN}: {reason}")
            not_run.append(Contestant(name=KRAKEN, not_run=reason))
            return known()
        for piece in scale.kraken_pieces:
            series = kraken_series(piece)
            theirs = [Bursts(count, series=series) for count in scale.nodes]
            rows += theirs
            try:
                for _ in _by_kraken(scale, piece, theirs, say):
                    result = known()
            except ImagedistError as error:
                say(f"  {series} failed: {error}")
                not_run.append(Contestant(name=series, not_run=str(error)))
                result = known()
    return result


def kraken_series(piece: str) -> str:
    return KRAKEN if piece == PIECE else f"{KRAKEN}, pieces of {piece}"


def _by_kraken(scale: Scale, piece: str, rows: Sequence[Bursts], say: Say) -> Iterator[None]:
    """Yields after each burst. Raises ImagedistError: something did not start, or a node did not get everything."""
    say(f"starting {rows[0].series}: {max(scale.nodes)} agents")
    sizes = (max(scale.nodes), scale.node_bits_per_second, scale.image_bytes)
    with short_directory() as directory, kraken_network(directory, *sizes, piece) as running:
        running.warm_up()
        for number in range(scale.rounds):
            for row in rotated(rows, number):
                _begin(scale, number, row, say)
                _end(row, running.burst(row.count, is_warm=scale.is_warm), say)
                yield


def _result(
    scale: Scale,
    directory: Path,
    rows: Sequence[Bursts],
    plain: Sequence[float],
    not_run: Sequence[Contestant],
    start: Start,
) -> Result:
    """Of the bursts so far."""
    ideal, rows = median(plain) or 0.0, [row for row in rows if row.bursts]
    ours = [row for row in rows if row.is_ours]
    return described(
        "swarm",
        directory,
        ImageFacts(name="random bytes", manifest_digest="", layers=BLOBS, compressed_bytes=scale.image_bytes),
        {
            "rounds": str(scale.rounds),
            "order": "rotated each round; every burst has an image of its own",
            "registry": f"links of {scale.node_bits_per_second / 1e6:g} Mbit/s, the site's {SITE_TIMES} times as wide",
            "cpu": "of the site's processes and the agents of these nodes; idle: the whole machine",
            **({"site": "has an image before nodes ask"} if scale.is_warm else {}),
            **scale.configuration.facts(),
        },
        (plain_row(plain), *(row_of(row, ideal, scale.image_bytes) for row in rows), *not_run),
        (*verdicts_of(ours, ideal, scale.image_bytes), *against(ours, [row for row in rows if row not in ours])),
        {
            **({"kraken": kraken_version()} if any(row.series.startswith(KRAKEN) for row in rows) else {}),
            "libtorrent": importlib.metadata.version("libtorrent"),
            "docker-registry": run_program(["docker-registry", "--version"]).strip(),
        },
        start,
    )


def check(scale: Scale) -> None:
    """Raises InputError: this machine cannot have a test network, has no docker-registry, or too little memory."""
    need("the swarm", "docker-registry", is_network=True)
    what = f"a swarm of {max(scale.nodes)} nodes with images of {scale.image_bytes / 1e6:.0f} MB"
    check_memory(scale.memory_bytes, what, "measure fewer nodes or smaller images")


def _round(
    network: SwarmNetwork, scale: Scale, number: int, rows: Sequence[Bursts], plain: list[float], say: Say
) -> Iterator[None]:
    """Yields after each burst; the plain download is of the first image that came through the site."""
    for row in rotated(rows, number):
        _begin(scale, number, row, say)
        _end(row, network.burst(row.count, is_straight=row.is_straight, is_warm=scale.is_warm), say)
        if len(plain) == number and not row.is_straight:
            say(f"round {number + 1} of {scale.rounds}: {PLAIN}")
            plain.append(network.plain_seconds())
        if plain:
            yield


def _begin(scale: Scale, number: int, row: Bursts, say: Say) -> None:
    say(f"round {number + 1} of {scale.rounds}: {row.name}, at least {scale.image_seconds:.0f} s")


def _end(row: Bursts, burst: Burst, say: Say) -> None:
    row.bursts.append(burst)
    say(f"  {burst.seconds:.2f} s for all, CPUs idle {burst.idle_share:.0%}")
