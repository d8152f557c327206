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
from bench.commands.command import (
    CACHE,
    STORE,
    Cache,
    Dragonfly,
    Ext4,
    Image,
    Json,
    Kraken,
    Quick,
    Rounds,
    Spegel,
    Store,
    app,
    counts,
    endpoints,
    explained,
    measured,
    names,
    say,
    settings_of,
)
from bench.contestant import Contestant
from bench.image_choice import ImageChoice
from bench.preflight import check
from bench.result import Keep, Result
from bench.unpack import CONTESTANTS, named
from imagedist.config import parse_size
from imagedist.errors import InputError
from imagedist.repack.recipe import Compression

_QUICK_CUTS = (1, 4, 16)
_NAMES = f"comma-separated, of: {', '.join(CONTESTANTS)}."


def _chosen(text: str) -> list[Contestant]:
    return [named(name) for name in names(text)]


@app.command()
@explained
def unpack(
    image: Image = "reference",
    contestants: Annotated[str, typer.Option(help=f"Who pulls, {_NAMES}")] = ",".join(unpack_benchmark.DEFAULT),
    rounds: Rounds = 5,
    quick: Quick = False,
    store: Store = STORE,
    ext4: Ext4 = None,
    cache: Cache = CACHE,
    json: Json = None,
) -> None:
    """Pull one image into empty stores: imagedist's strategies, docker, containerd, podman."""

    def run(keep: Keep) -> Result:
        settings, chosen = settings_of(image, rounds, store, ext4, cache, quick, keep), _chosen(contestants)
        check(settings, chosen)
        return unpack_benchmark.run(settings, chosen)

    measured(run, json, store)


@app.command()
@explained
def pull(
    image: Image = "reference",
    contestants: Annotated[str, typer.Option(help="Runtimes, comma-separated.")] = ",".join(pull_benchmark.STRAIGHT),
    rounds: Rounds = 5,
    quick: Quick = False,
    store: Store = STORE,
    ext4: Ext4 = None,
    cache: Cache = CACHE,
    kraken: Kraken = None,
    dragonfly: Dragonfly = None,
    spegel: Spegel = None,
    json: Json = None,
) -> None:
    """Pull one image onto this machine by every runtime, straight and through imagedist, and by other systems."""
    urls = endpoints(kraken, dragonfly, spegel)

    def run(keep: Keep) -> Result:
        settings = settings_of(image, rounds, store, ext4, cache, quick, keep)
        for name in names(contestants):
            named(name)
        chosen = [*pull_benchmark.contestants(names(contestants)), *pull_benchmark.mirrors(settings, urls)]
        check(settings, chosen)
        return pull_benchmark.run(settings, chosen)

    measured(run, json, store)


@app.command()
@explained
def layers(
    image: Image = "reference",
    cuts: Annotated[str, typer.Option(help="Numbers of layers, comma-separated.")] = "1,2,4,8,16,32",
    peers: Annotated[str, typer.Option(help=f"Measured beside imagedist, {_NAMES}")] = "",
    forms: Annotated[str, typer.Option(help="Compressions measured beside gzip, of: pgzip, zstd.")] = "",
    rounds: Rounds = 5,
    quick: Quick = False,
    store: Store = STORE,
    ext4: Ext4 = None,
    cache: Cache = CACHE,
    json: Json = None,
) -> None:
    """Pull the same files cut into 1 to 32 layers, and one fat layer with one CPU and with two."""

    def run(keep: Keep) -> Result:
        settings, beside = settings_of(image, rounds, store, ext4, cache, quick, keep), _chosen(peers)
        wanted = _QUICK_CUTS if quick else counts(cuts, "--cuts")
        check(settings, beside, images=len(wanted) * (1 + len(names(forms))))
        return layers_benchmark.run(settings, wanted, beside, _forms(forms))

    measured(run, json, store)


def _forms(text: str) -> list[Compression]:
    found = names(text)
    if unknown := set(found) - set(layers_benchmark.FORMS):
        raise InputError(f"--forms {unknown.pop()!r}: expected {', '.join(layers_benchmark.FORMS)}")
    return [cast(Compression, name) for name in found]


@app.command()
@explained
def limit(
    image: Image = "reference",
    rounds: Rounds = 5,
    quick: Quick = False,
    store: Store = STORE,
    ext4: Ext4 = None,
    cache: Cache = CACHE,
    json: Json = None,
) -> None:
    """Measure the CPU time of each step that a pull cannot do without, and how near imagedist comes to it."""

    def run(keep: Keep) -> Result:
        settings = settings_of(image, rounds, store, ext4, cache, quick, keep)
        check(settings, ())
        return limit_benchmark.run(settings)

    measured(run, json, store)


@app.command()
@explained
def update(
    image: Image = "reference",
    contestants: Annotated[str, typer.Option(help=f"Who pulls, {_NAMES}")] = ",".join(update_benchmark.DEFAULT),
    rounds: Rounds = 5,
    quick: Quick = False,
    store: Store = STORE,
    ext4: Ext4 = None,
    cache: Cache = CACHE,
    json: Json = None,
) -> None:
    """Pull a 20 MB application layer onto a node that has the base; the first contestant is the measure."""

    def run(keep: Keep) -> Result:
        settings, chosen = settings_of(image, rounds, store, ext4, cache, quick, keep), _chosen(contestants)
        if not chosen:
            raise InputError(f"--contestants names nobody: expected some of {', '.join(CONTESTANTS)}")
        check(settings, chosen, images=2)
        return update_benchmark.run(settings, chosen, chosen[0].name)

    measured(run, json, store)


@app.command()
@explained
def memory(
    image: Image = "reference",
    ramdisk_budget: Annotated[str, typer.Option(help="What the ramdisk may hold.")] = "256MiB",
    rounds: Rounds = 3,
    quick: Quick = False,
    store: Store = STORE,
    ext4: Ext4 = None,
    cache: Cache = CACHE,
    json: Json = None,
) -> None:
    """Watch the anonymous memory and the ramdisk of a pull."""

    def run(keep: Keep) -> Result:
        parse_size(ramdisk_budget)
        settings = settings_of(image, rounds, store, ext4, cache, quick, keep)
        check(settings, ())
        return memory_benchmark.run(settings, ramdisk_budget)

    measured(run, json, store)


@app.command()
@explained
def runtimes(
    image: Image = "reference",
    rounds: Rounds = 5,
    quick: Quick = False,
    store: Store = STORE,
    ext4: Ext4 = None,
    cache: Cache = CACHE,
    json: Json = None,
) -> None:
    """Pull as kubelet does, by CRI: containerd with imagedist's snapshotter, and with overlayfs."""

    def run(keep: Keep) -> Result:
        settings = settings_of(image, rounds, store, ext4, cache, quick, keep)
        check(settings, [CONTESTANTS["cri"], CONTESTANTS["cri-imagedist"]], images=2)
        return runtimes_benchmark.run(settings)

    measured(run, json, store)


@app.command()
@explained
def decoders(
    image: Image = "reference",
    size: Annotated[str, typer.Option(help="Of the tar that is decoded, at most.")] = "300MB",
    rounds: Rounds = 5,
    quick: Quick = False,
    cache: Cache = CACHE,
    json: Json = None,
) -> None:
    """Inflate, hash and write one tar by every decoder: the engine's own, zlib, and rapidgzip if it is installed."""

    def run(keep: Keep) -> Result:
        settings = settings_of(image, rounds, STORE, None, cache, quick, keep)
        check(settings, ())
        return decoders_benchmark.run(settings, parse_size(size))

    measured(run, json)


@app.command()
@explained
def image(image: Image = "reference", cache: Cache = CACHE) -> None:
    """Build or copy an image into the cache, and print its OCI layout."""
    print(ImageChoice.parse(image).build(cache.absolute(), say).layout)
