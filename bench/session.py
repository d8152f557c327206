"""What every benchmark begins with: images, a registry that has them, a place for stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import images
from bench.contestant import Contestant
from bench.directories import short_directory
from bench.image_choice import ImageChoice
from bench.machine import Start, described, versions
from bench.places import Place, file_system, place
from bench.registry import Registry, registry
from bench.result import Comparison, ImageFacts, Keep, Result, Verdict, forget
from bench.result import Contestant as Measured
from bench.rounds import Job, measure
from imagedist.demo.layout import BuiltImage

_REFERENCE = "reference"
"""The image that times are aimed at for."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for.

    Attributes:
        cache: where images are kept between benchmarks.
        store: where stores are made and removed.
        ext4_bytes: size of a fresh ext4 below ``store``; None measures ``store``'s own file system.
        image: see ``image_choice.SYNTAX``.
        say: told what is going on.
        keep: told the result so far, after every run.
    """

    cache: Path
    store: Path
    ext4_bytes: int | None
    image: str
    rounds: int
    say: Callable[[str], None]
    keep: Keep = forget

    def facts(self) -> dict[str, str]:
        """For the result."""
        synced = f"fresh ext4 of {self.ext4_bytes} bytes, timed until syncfs returned" if self.ext4_bytes else ""
        return {
            "rounds": str(self.rounds),
            "image": self.image,
            "stores": f"cold, a fresh one for each run{'; ' + synced if synced else ''}",
            "memory": "touched before each run: none waits for pages of its host's",
            "caches": "the registry's files, and every program by a pull of a tiny image beforehand, are warm",
            "images": f"built in {file_system(self.cache)}",
            "order": "rotated each round",
        }


@dataclass(frozen=True, slots=True)
class Session:
    """A benchmark under way."""

    settings: Settings
    registry: Registry
    place: Place
    warm_up: str
    start: Start

    def run(self, jobs: Sequence[Job], result_of: Callable[[tuple[Measured, ...]], Result]) -> Result:
        """Measures (``rounds.measure``); what is known after each run is kept as well.

        Args:
            result_of: what rows say; some may have no runs yet.
        """

        def keep(rows: tuple[Measured, ...]) -> None:
            self.settings.keep(result_of(rows))

        settings = self.settings
        return result_of(measure(jobs, self.place, self.registry, settings.rounds, self.warm_up, settings.say, keep))

    def result(
        self,
        benchmark: str,
        image: ImageFacts,
        contestants: Sequence[Contestant],
        measured: Sequence[Measured],
        comparisons: tuple[Comparison, ...] = (),
        verdicts: tuple[Verdict, ...] = (),
        **more_settings: str,
    ) -> Result:
        """Everything known, as it is written down."""
        facts = {**self.settings.facts(), "registry": f"{self.registry.kind} on loopback", **more_settings}
        who, where = versions(contestants), self.place.directory
        result = described(benchmark, where, image, facts, measured, verdicts, who, self.start)
        return result.model_copy(update={"comparisons": comparisons})


@contextmanager
def session(settings: Settings) -> Iterator[Session]:
    """A registry on loopback and a place for stores, until the block ends.

    Raises:
        InputError: root or a tool is missing. StorageError: no space. ImagedistError: the registry did not start.
    """
    start = Start.now()
    with place(settings.store, settings.ext4_bytes) as where, short_directory() as directory:
        with registry(directory / "registry") as running:
            warm_up = images.tiny(settings.cache)
            yield Session(settings, running, where, running.add(warm_up, "bench/warm-up:1"), start)


def aim_with(image: ImageFacts, aim: str) -> str:
    """An aim that was set with the reference image; with others it is told, and neither met nor missed: what a pull
    costs whatever it pulls weighs more the smaller the image is."""
    return aim if image.name.partition(",")[0] == _REFERENCE else f"{aim} with {_REFERENCE}"


def image_of(settings: Settings) -> BuiltImage:
    """The image the user chose, built or copied into the cache. Raises as ``ImageChoice.parse`` and ``build``."""
    return ImageChoice.parse(settings.image).build(settings.cache, settings.say)
