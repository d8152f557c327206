"""What a node remembers of its preheats over restarts: its orders, what the images consist of, what came for a run."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from imagedist.errors import StorageError, storage_error
from imagedist.oci.digest import Digest
from imagedist.oci.image import Image, layer_ids
from imagedist.preheat.shapes import Orders
from imagedist.store.files import write_aside

_LOG = logging.getLogger(__name__)


class KeptLayer(BaseModel):
    """``layer_id``: its name in the overlay store."""

    model_config = ConfigDict(frozen=True)

    digest: Digest
    size_bytes: int
    layer_id: str


class KeptImage(BaseModel):
    """What an image consists of on this machine's platform: enough to see what is here with the site gone.

    Attributes:
        index: the digest that was wanted, of a manifest or an index.
        config: its digest is the image's id.
    """

    model_config = ConfigDict(frozen=True)

    index: Digest
    manifest: Digest
    config: Digest
    config_bytes: int
    layers: tuple[KeptLayer, ...]

    @classmethod
    def of(cls, wanted: Digest, image: Image) -> KeptImage:
        ids = layer_ids([layer.diff_id for layer in image.layers])
        return cls(
            index=wanted,
            manifest=image.manifest_digest,
            config=image.id,
            config_bytes=len(image.config_bytes),
            layers=tuple(
                KeptLayer(digest=layer.descriptor.digest, size_bytes=layer.descriptor.size_bytes, layer_id=layer_id)
                for layer, layer_id in zip(image.layers, ids, strict=True)
            ),
        )

    @property
    def blobs(self) -> dict[Digest, int]:
        """Every blob with its size."""
        return {self.config: self.config_bytes, **{layer.digest: layer.size_bytes for layer in self.layers}}


class PreheatState(BaseModel):
    """
    Attributes:
        images: by the digest that was wanted.
        received_bytes: by rule: the run, and what came for it.
    """

    format: int = 1
    orders: Orders = Orders()
    images: dict[Digest, KeptImage] = {}
    received_bytes: dict[str, tuple[str, int]] = {}

    @classmethod
    def read(cls, path: Path) -> PreheatState:
        """Blocking. What cannot be read is begun anew: the seeder says it again. Raises StorageError."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            _LOG.warning("%s is of another version, or damaged: %s", path, error.errors()[0]["msg"])
            return cls()
        except OSError as error:
            raise storage_error(f"read {path}", error) from error

    def write(self, path: Path) -> None:
        """Blocking. A full disk must not stop what frees it: it is said, and written next time."""
        wanted = {each.digest for order in self.orders.orders for each in order.images}
        rules = {order.rule for order in self.orders.orders}
        self.images = {digest: image for digest, image in self.images.items() if digest in wanted}
        self.received_bytes = {rule: count for rule, count in self.received_bytes.items() if rule in rules}
        try:
            write_aside(path, self.model_dump_json().encode())
        except StorageError as error:
            _LOG.warning("what is preheated here is not remembered: %s", error)

    def note_received(self, rule: str, run: str, count_bytes: int) -> None:
        before = self.received_bytes.get(rule)
        self.received_bytes[rule] = (run, count_bytes + (before[1] if before is not None and before[0] == run else 0))

    def received(self, rule: str, run: str) -> int:
        before = self.received_bytes.get(rule)
        return before[1] if before is not None and before[0] == run else 0
