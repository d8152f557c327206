"""What may be read on the event loop."""

from __future__ import annotations

from io import FileIO
from pathlib import Path

from imagedist.distribution.page_cache import read_cached


def test_what_was_just_written_is_in_memory_or_the_file_system_cannot_tell(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"0123456789")
    with FileIO(tmp_path / "blob") as file:
        assert read_cached(file, 2, 3) in (b"234", None)
        assert read_cached(file, 8, 100) in (b"89", None)
        assert read_cached(file, 10, 5) is None  # the end is for a read that waits to find out
