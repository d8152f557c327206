"""Which decoder for which bytes: each inflates, hashes and writes the same tar, alone (``unpack.ways``)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.directories import short_directory
from bench.in_turn import Runs, in_turn
from bench.machine import Start, describe_image, described
from bench.processes import RUN_SECONDS
from bench.result import Contestant, Result, Run, Verdict, comparisons
from bench.session import Settings, image_of
from imagedist.demo.layout import BuiltImage
from imagedist.errors import ImagedistError
from imagedist.repack.recipe import DEFAULT_BLOCK_BYTES, Compression, Recipe
from imagedist.unpack.decode import Chunk, decoder, in_order

_CHUNK_BYTES = 1 << 20
_FORMS: Mapping[str, Compression] = {"gzip": "gzip", "pgzip": "pgzip", "zstd": "zstd"}


@dataclass(frozen=True, slots=True)
class Way:
    """One decoder on one form of the tar; see ``decoding.main``."""

    name: str
    form: str
    way: str

    def cannot(self) -> str | None:
        is_missing = self.way.startswith("rapidgzip") and importlib.util.find_spec("rapidgzip") is None
        return "rapidgzip is not installed (pip install rapidgzip)" if is_missing else None


def ways(cpus: int) -> list[Way]:
    """The engine's own first: one CPU, and all that are idle."""
    engine = [
        Way(f"{form}, {text}", form, way)
        for form in _FORMS
        for text, way in (("one CPU", "engine"), ("idle CPUs", "engine+"))
    ]
    threads = sorted({1, 2, cpus})
    others = [Way(f"gzip, rapidgzip with {count}", "gzip", f"rapidgzip-{count}") for count in threads]
    return [*engine, Way("gzip, zlib", "gzip", "zlib"), *others]


def run(settings: Settings, size_bytes: int) -> Result:
    """Round by round, in turn.

    Args:
        size_bytes: of the tar, at most; it is made of the image's layers.

    Raises:
        ImagedistError: a decoder failed, or gave other bytes.
    """
    built = image_of(settings)
    start = Start.now()
    chosen = ways(len(os.sched_getaffinity(0)))
    with short_directory() as memory:
        settings.say("compressing the tar in each form")
        plain_bytes = _compressed(built, memory, size_bytes)

        def known(runs: Runs) -> Result:
            rows = tuple(
                Contestant(name=way.name, runs=tuple(runs.get(way.name, ())), not_run=way.cannot()) for way in chosen
            )
            facts = {"rounds": str(settings.rounds), "tar_bytes": str(plain_bytes), "registry": "no registry"}
            verdicts = [verdict for one in rows for verdict in _verdicts(one)]
            found = described(
                "decoders", memory, describe_image(built, settings.image), facts, rows, verdicts, start=start
            )
            return found.model_copy(update={"comparisons": comparisons(rows, chosen[1].name)})

        expected: set[str] = set()

        def decode(way: Way, number: int) -> Run:
            told = _decoded(way, memory)
            expected.add(str(told.pop("sha256")))
            if len(expected) > 1:
                raise ImagedistError("the decoders do not agree on the bytes: one of them is broken")
            return _run(number, told, plain_bytes)

        able = {way.name: partial(decode, way) for way in chosen if way.cannot() is None}
        return known(in_turn(able, settings.rounds, settings.say, lambda runs: settings.keep(known(runs))))


def _compressed(built: BuiltImage, memory: Path, size_bytes: int) -> int:
    """Writes the tar in every form; returns its plain size."""
    outputs = {form: (memory / form).open("wb") for form in _FORMS}
    cpus = len(os.sched_getaffinity(0))
    encoders = {form: Recipe.of(made).encoder(outputs[form], cpus) for form, made in _FORMS.items()}
    block, total_bytes = bytearray(), 0

    def take(plain: Chunk) -> None:
        nonlocal total_bytes
        plain = plain[: size_bytes - total_bytes]
        total_bytes += len(plain)
        block.extend(plain)
        while len(block) >= DEFAULT_BLOCK_BYTES:
            for encoder in encoders.values():
                encoder.write(bytes(block[:DEFAULT_BLOCK_BYTES]))
            del block[:DEFAULT_BLOCK_BYTES]

    for layer in built.image.layers:
        decoding = decoder(layer.descriptor.compression, in_order(take), str(layer.descriptor.digest))
        with built.blob(layer.descriptor.digest).open("rb") as blob:
            while total_bytes < size_bytes and (chunk := blob.read(_CHUNK_BYTES)):
                decoding.feed(chunk)
    for form, encoder in encoders.items():
        encoder.write(bytes(block))
        encoder.close()
        outputs[form].close()
    return total_bytes


def _decoded(way: Way, memory: Path) -> dict[str, float | str]:
    compression = _FORMS[way.form].removeprefix("p")
    command = [
        sys.executable,
        "-m",
        "bench.decoding",
        way.way,
        compression,
        str(memory / way.form),
        str(memory / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    if done.returncode:
        raise ImagedistError(f"{way.name} failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    told: dict[str, float | str] = json.loads(done.stdout)
    return told


def _run(number: int, told: Mapping[str, float | str], plain_bytes: int) -> Run:
    seconds = float(told["seconds"])
    figures = {
        "plain_megabytes_per_second": plain_bytes / 1e6 / seconds,
        "peak_anonymous_bytes": float(told["peak_anonymous_bytes"]),
    }
    return Run(round=number, seconds=seconds, cpu_seconds=float(told["cpu_seconds"]), figures=figures)


def _verdicts(one: Contestant) -> list[Verdict]:
    rate, peak_bytes = one.figure("plain_megabytes_per_second"), one.figure("peak_anonymous_bytes")
    if rate is None or peak_bytes is None:
        return []
    memory = Verdict(what="  its anonymous memory", value=peak_bytes / 1e6, unit="MB", aim="")
    return [Verdict(what=one.name, value=rate, unit="MB/s of plain, hashed and written", aim=""), memory]
