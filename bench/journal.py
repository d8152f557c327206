"""The result of a benchmark under way, in its file after every row: whatever ends the benchmark, that is there."""

from __future__ import annotations

from pathlib import Path

from bench.result import Result, save


class Journal:
    """Use ``keep`` as the benchmark's; then ``finish``, or ``stop``.

    Args:
        command: the command line, for the result.
        file: None: nothing is written.
    """

    def __init__(self, command: str, file: Path | None) -> None:
        self._command = command
        self._file = file
        self.last: Result | None = None
        """As it was written last."""

    def keep(self, result: Result) -> None:
        """Raises StorageError: no space or no permission."""
        self._write(result, partial=True)

    def stop(self, why: str) -> None:
        """The benchmark ends before its end. Raises as ``keep``."""
        if self.last is not None:
            self._write(self.last, partial=True, stopped=why)

    def finish(self, result: Result) -> Result:
        """Raises as ``keep``."""
        return self._write(result, partial=False)

    def _write(self, result: Result, **changes: object) -> Result:
        self.last = result.model_copy(update={"command": self._command, **changes})
        if self._file is not None:
            save(self.last, self._file)
        return self.last
