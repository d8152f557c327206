"""How near to the machine's limit: the CPU time of every step that a pull cannot do without, each measured alone."""

from __future__ import annotations

import hashlib
import os
import resource
import time
from pathlib import Path

from isal import isal_zlib

from bench.contestant import Imagedist
from bench.directories import short_directory
from bench.machine import describe_image
from bench.places import Place
from bench.processes import run as run_program
from bench.registry import Registry
from bench.result import Contestant, Result, Run, Verdict, comparisons
from bench.rounds import Job, cold_run
from bench.session import Settings, aim_with, image_of, session
from bench.statistics import median
from imagedist.demo.layout import BuiltImage
from imagedist.errors import ImagedistError

_CHUNK_BYTES = 1 << 20
_GZIP_WINDOW = 31
LIMIT = "limit"


def run(settings: Settings) -> Result:
    """Round by round: the steps one after the other, then our pull; the limit is their CPU time ÷ the CPUs.

    Raises:
        ImagedistError: a step or our pull failed. InputError: the image's layers are not gzip.
    """
    built = image_of(settings)
    ours = Imagedist()
    cpus = len(os.sched_getaffinity(0))
    limits, runs = [], []
    image = describe_image(built, settings.image)
    with session(settings) as under_way:
        reference = under_way.registry.add(built, "bench/image:1")
        job = Job(ours.name, ours, reference)
        cold_run(Job(ours.name, ours, under_way.warm_up), under_way.place, under_way.registry, 0)
        for number in range(settings.rounds):
            settings.say(f"round {number + 1} of {settings.rounds}: each step alone")
            steps = _steps(built, reference, under_way.place, under_way.registry)
            total = sum(steps.values())
            limits.append(Run(round=number, seconds=total / cpus, cpu_seconds=total, figures=steps))
            settings.say(f"round {number + 1} of {settings.rounds}: {ours.name}")
            runs.append(cold_run(job, under_way.place, under_way.registry, number))
            measured = (Contestant(name=LIMIT, runs=tuple(limits)), Contestant(name=ours.name, runs=tuple(runs)))
            compared = comparisons(measured, LIMIT)
            aim = aim_with(image, "at most 1.15")
            verdict = Verdict(what="imagedist ÷ limit", value=compared[0].median, unit="×", aim=aim)
            parts = [
                Verdict(what=f"of it: {name.removesuffix('_cpu_seconds')}", value=value, unit="CPU s", aim="")
                for name in limits[0].figures
                if (value := median([one.figures[name] for one in limits])) is not None
            ]
            result = under_way.result("limit", image, [ours], measured, compared, (verdict, *parts), cpus=str(cpus))
            settings.keep(result)
        return result


def _steps(built: BuiltImage, reference: str, place: Place, registry: Registry) -> dict[str, float]:
    """CPU seconds of each step over all layers."""
    with short_directory() as memory, place.fresh() as store:
        return {
            **_fetch(built, reference, registry),
            **_decode(built, memory),
            "extract_cpu_seconds": _extract(memory, store),
        }


def _fetch(built: BuiltImage, reference: str, registry: Registry) -> dict[str, float]:
    """One curl gets every layer; the registry's own CPU time counts as well, for it runs on the same machine."""
    address, _, name = reference.partition("/")
    repository = name.rpartition(":")[0]
    layers = dict.fromkeys(layer.descriptor.digest for layer in built.image.layers)
    outputs = [
        part for digest in layers for part in (f"http://{address}/v2/{repository}/blobs/{digest}", "-o/dev/null")
    ]
    before = registry.account.cpu_seconds()
    client = _children_cpu_seconds(["curl", "--silent", "--show-error", "--fail", *outputs])
    return {"curl_cpu_seconds": client, "registry_cpu_seconds": registry.account.cpu_seconds() - before}


def _decode(built: BuiltImage, memory: Path) -> dict[str, float]:
    """Each step timed by itself on the chunks that the step before it gave; leaves the tars in ``memory``."""
    clock = time.thread_time
    names = ("sha256_of_blobs", "inflate", "sha256_of_tars", "write_tars")
    spent = dict.fromkeys(names, 0.0)
    for number, layer in enumerate(built.image.layers):
        inflate = isal_zlib.decompressobj(_GZIP_WINDOW)
        blob_hash, tar_hash = hashlib.sha256(), hashlib.sha256()
        blob = built.blob(layer.descriptor.digest)
        with blob.open("rb") as compressed, (memory / f"{number}.tar").open("wb", buffering=0) as tar:
            while chunk := compressed.read(_CHUNK_BYTES):
                times = [clock()]
                blob_hash.update(chunk)
                times.append(clock())
                plain = inflate.decompress(chunk)
                times.append(clock())
                tar_hash.update(plain)
                times.append(clock())
                tar.write(plain)
                times.append(clock())
                for name, begun, done in zip(names, times, times[1:], strict=False):
                    spent[name] += done - begun
        if not layer.diff_id.matches(tar_hash):
            raise ImagedistError(f"layer {layer.descriptor.digest} is not one member of gzip: measure another image")
    return {f"{name}_cpu_seconds": seconds for name, seconds in spent.items()}


def _extract(memory: Path, store: Path) -> float:
    """GNU tar, each layer into a directory of its own."""
    total = 0.0
    for tar in sorted(memory.glob("*.tar")):
        directory = store / tar.stem
        directory.mkdir()
        total += _children_cpu_seconds(["tar", "--extract", "--file", str(tar), "--directory", str(directory)])
    return total


def _children_cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_program(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
