"""Which of the site's seeders seed a blob: rendezvous hashing (Thaler and Ravishankar, 1998). Pure.

Every proxy and worker comes to the same answer without asking anybody, and when a seeder comes or goes, only the blobs
that it has or had change hands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from imagedist.oci.digest import Digest


def ranked(digest: Digest, seeders: Iterable[str]) -> list[str]:
    """All of them, the one that seeds this blob first."""
    return sorted(seeders, key=lambda seeder: hashlib.sha256(f"{seeder} {digest}".encode()).digest())
