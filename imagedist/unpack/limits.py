"""What a layer may ask of a node: bounds that hostile layers meet and real ones do not, and a policy for devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_PATH_BYTES = 4096
"""Of a name or a link target: PATH_MAX of Linux."""
MAX_NAME_BYTES = 255
"""Of one part of a path: NAME_MAX."""
MAX_DEPTH = 256
"""Directories above each other. Real trees have some 20; what walks a tree later may recurse."""
MAX_XATTR_NAME_BYTES = 255
MAX_XATTR_BYTES = 64 << 10
"""Of one value, and of all of an entry's names and values together: XATTR_SIZE_MAX and XATTR_LIST_MAX of Linux."""
MAX_XATTRS = 128
MAX_TEXT_BYTES = 256 << 20
"""Of a whole layer's names, link targets, xattrs and sparse maps, which are kept in memory."""
MAX_EXTENSION_BYTES = 1 << 20
"""Of all extended headers of one entry, as Go's archive/tar."""
MAX_EXTENTS = 1 << 18
"""Of one sparse file."""
MAX_SPARSE_BYTES = 16 << 40
"""A sparse file's apparent size: what ext4 holds."""
FREE_WINDOW_BYTES = 8 << 20
"""Of a zstd frame's window: what every decoder should support (RFC 8878 §3.1.1.1.2), and compressors stay within up to
level 19. What is beyond is memory of the ramdisk's budget."""
MAX_WINDOW_BYTES = 128 << 20
"""What libzstd decodes at most, unless told otherwise."""

_RATIO_FREE_BYTES = 1 << 30

Devices = Literal["keep", "refuse", "skip"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What users may configure (``[unpack]``).

    Attributes:
        entries: of one layer, at most. The biggest layers we know have some 300,000.
        layer_bytes: a layer's tar, at most. CUDA and model layers reach some 20 GB.
        ratio: plain to compressed bytes, at most, of a tar above 1 GiB. Deflate ends at 1032:1 and zstd -3 makes
            32,000:1 of zeros; layers of programs have 2:1 to 5:1, of logs and tables up to some 50:1.
        devices: device nodes are made (as docker, podman and umoci do for root), refused, or left out and counted.
    """

    entries: int = 2_000_000
    layer_bytes: int = 100 << 30
    ratio: int = 500
    devices: Devices = "keep"

    def tar_bytes(self, blob_bytes: int) -> int:
        """The most that a blob of this size may decode to; the size is the manifest's, which is checked at the end."""
        return min(self.layer_bytes, max(_RATIO_FREE_BYTES, self.ratio * blob_bytes))


DEFAULTS = Limits()
