"""Which program a client is, by its ``User-Agent``. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

_PROGRAMS = {
    "imagedist": "agent",
    "libtorrent": "agent",  # its web seeds
    "docker": "docker",
    "containerd": "containerd",
    "nerdctl": "containerd",
    "libpod": "podman",
    "containers": "podman",  # containers/image with no name of its own
    "buildah": "buildah",
    "skopeo": "skopeo",
    "cri-o": "cri-o",
    "prometheus": "prometheus",
    "kube-probe": "probe",
}
_PRODUCT = re.compile(r"[A-Za-z][A-Za-z-]{0,30}(?=[/ ]|\Z)")


@lru_cache(maxsize=1024)
def client_kind(user_agent: str) -> str:
    """One of a small set: the first product that is known; ``other`` for the rest."""
    found = _PRODUCT.match(user_agent)
    return _PROGRAMS.get(found[0].lower(), "other") if found else "other"
