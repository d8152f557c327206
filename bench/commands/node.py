"""What one node does: pulls, unpacks, updates; its memory, its decoders."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from bench import decoders as decoders_benchmark
from bench import layers as layers_benchmark
from bench import limit as limit_benchmark
from bench import memory as memory_benchmark
from bench import pull as pull_benchmark
from bench import runtimes as runtimes_benchmark
from bench import unpack as unpack_benchmark
from bench import update as update_benchmark
from bench.commands.command import app, counts, endpoints, explained, names, say, size_of
from bench.commands.options import (
    CACHE,
    Asked,
    Cache,
    Dragonfly,
    Image,
    Kraken,
    Spegel,
    benchmark,
    benchmark_of_image,
)
from bench.contestant import Contestant
from bench.image_choice import ImageChoice
from bench.preflight import check, check_images
from bench.result import Result
from bench.unpack import CONTESTANTS, named
from imagedist.config import parse_size
from imagedist.errors import InputError
from imagedist.repack.recipe import Compression

_QUICK_CUTS = (1, 4, 16)
_NAMES = f"comma-separated, of: {', '.join(CONTESTANTS)}."


def _chosen(text: str) -> list[Contestant]:
    """Raises InputError: nobody, or nobody of that name."""
    if not (found := [named(name) for name in names(text)]):
        raise InputError(f"--contestants names nobody: expected some of {', '.join(CONTESTANTS)}")
    return found


@benchmark_of_image()
def unpack(
    asked: Asked,
    contestants: Annotated[str, typer.Option(help=f"Who pulls, {_NAMES}")] = ",".join(unpack_benchmark.DEFAULT),
) -> Result:
    """Pull one image into empty stores: imagedist's strategies, docker, containerd, podman."""
    settings, chosen = asked.settings(), _chosen(contestants)
    check(settings, chosen)
    return unpack_benchmark.run(settings, chosen)


@benchmark_of_image()
def pull(
    asked: Asked,
    contestants: Annotated[str, typer.Option(help="Runtimes, comma-separated.")] = ",".join(pull_benchmark.STRAIGHT),
    kraken: Kraken = None,
    dragonfly: Dragonfly = None,
    spegel: Spegel = None,
) -> Result:
    """Pull one image onto this machine by every runtime, straight and through imagedist, and by other systems."""
    settings, runtimes = asked.settings(), [one.name for one in _chosen(contestants)]
    urls = endpoints(kraken, dragonfly, spegel)
    chosen = [*pull_benchmark.contestants(runtimes), *pull_benchmark.mirrors(settings, urls)]
    check(settings, chosen)
    return pull_benchmark.run(settings, chosen)


@benchmark_of_image()
def layers(
    asked: Asked,
    cuts: Annotated[str, typer.Option(help="Numbers of layers, comma-separated.")] = "1,2,4,8,16,32",
    peers: Annotated[str, typer.Option(help=f"Measured beside imagedist, {_NAMES}")] = "",
    forms: Annotated[str, typer.Option(help="Compressions measured beside gzip, of: pgzip, zstd.")] = "",
) -> Result:
    """Pull the same files cut into 1 to 32 layers, and one fat layer with one CPU and with two."""
    settings, beside = asked.settings(), [named(name) for name in names(peers)]
    wanted = _QUICK_CUTS if asked.quick else counts(cuts, "--cuts")
    forms_wanted = _forms(forms)
    check(settings, beside, images=len(wanted) * (1 + len(forms_wanted)))
    return layers_benchmark.run(settings, wanted, beside, forms_wanted)


def _forms(text: str) -> list[Compression]:
    found = names(text)
    if unknown := set(found) - set(layers_benchmark.FORMS):
        raise InputError(f"--forms {unknown.pop()!r}: expected {', '.join(layers_benchmark.FORMS)}")
    return [cast(Compression, name) for name in found]


@benchmark_of_image()
def limit(asked: Asked) -> Result:
    """Measure the CPU time of each step that a pull cannot do without, and how near imagedist comes to it."""
    settings = asked.settings()
    check(settings, ())
    return limit_benchmark.run(settings)


@benchmark_of_image()
def update(
    asked: Asked,
    contestants: Annotated[str, typer.Option(help=f"Who pulls, {_NAMES}")] = ",".join(update_benchmark.DEFAULT),
) -> Result:
    """Pull a 20 MB application layer onto a node that has the base; the first contestant is the measure."""
    settings, chosen = asked.settings(), _chosen(contestants)
    check(settings, chosen, images=2)
    return update_benchmark.run(settings, chosen, chosen[0].name)


@benchmark_of_image(rounds=3)
def memory(
    asked: Asked,
    ramdisk_budget: Annotated[str, typer.Option(help="What the ramdisk may hold.")] = "256MiB",
) -> Result:
    """Watch the anonymous memory and the ramdisk of a pull."""
    parse_size(ramdisk_budget)
    settings = asked.settings()
    check(settings, ())
    return memory_benchmark.run(settings, ramdisk_budget)


@benchmark_of_image()
def runtimes(asked: Asked) -> Result:
    """Pull as kubelet does, by CRI: containerd with imagedist's snapshotter, and with overlayfs."""
    settings = asked.settings()
    check(settings, [CONTESTANTS["cri"], CONTESTANTS["cri-imagedist"]], images=2)
    return runtimes_benchmark.run(settings)


@benchmark("The small image, three rounds.", image="reference", rounds=5, cache=CACHE)
def decoders(
    asked: Asked,
    size: Annotated[str, typer.Option(help="Of the tar that is decoded, at most.")] = "300MB",
) -> Result:
    """Inflate, hash and write one tar by every decoder: the engine's own, zlib, and rapidgzip if it is installed."""
    settings, size_bytes = asked.settings(), size_of(size)
    check(settings, ())
    return decoders_benchmark.run(settings, size_bytes)


@app.command()
@explained
def image(image: Image = "reference", cache: Cache = CACHE) -> None:
    """Build or copy an image into the cache, and print its OCI layout."""
    choice, place = ImageChoice.parse(image), cache.absolute()
    check_images(choice, place)
    print(choice.build(place, say).layout)
