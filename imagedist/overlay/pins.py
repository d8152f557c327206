"""Images that stay whatever the quota says, and who wants that: one small file each, ``pins/<image id>``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from imagedist.errors import storage_error
from imagedist.overlay.records import write_aside

_IMAGE_ID = re.compile(r"[0-9a-f]{64}\Z")


class Pins:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def reason(self, image_id: str) -> str | None:
        """Why an image stays; None: it need not. Raises StorageError."""
        try:
            return (self._directory / image_id).read_text(errors="replace").strip() or "pinned"
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(f"read the pin of image {image_id}", error) from error

    def replace(self, reasons: Mapping[str, str]) -> None:
        """Makes these the pins there are: image id → reason. Raises StorageError."""
        try:
            present = {path.name for path in self._directory.iterdir()} if self._directory.exists() else set()
            for image_id in present - reasons.keys():
                if _IMAGE_ID.match(image_id):
                    (self._directory / image_id).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"take off pins in {self._directory}", error) from error
        for image_id, reason in reasons.items():
            if image_id not in present or self.reason(image_id) != reason:
                write_aside(self._directory / image_id, f"{reason}\n".encode(), False)
