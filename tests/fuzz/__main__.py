"""``make fuzz``: coverage-guided, for as long as libFuzzer's ``-max_total_time`` says. Any exception is a finding."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["imagedist.unpack"]):
    from tests.fuzz import target


def main() -> None:
    """Arguments: a directory for the corpus, which grows, then libFuzzer's own."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (directory / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
