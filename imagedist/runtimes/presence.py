"""Whether a runtime has an image of its own under a name, which then is nobody else's to replace or remove."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from imagedist.errors import SourceError
from imagedist.runtimes import cri
from imagedist.runtimes.asking import run
from imagedist.runtimes.listing import ANSWER_SECONDS, is_unknown

_Has = Callable[[str], bool]


def has_image(key: str, name: str) -> bool:
    """
    Args:
        key: the runtime's.

    Raises:
        InputError: it is not installed. SourceError: it does not say.
    """
    return _HAS[key](name)


def _inspected(program: str, name: str) -> bool:
    try:
        run([program, "image", "inspect", name], ANSWER_SECONDS)
    except SourceError as error:
        if is_unknown(error):
            return False
        raise
    return True


def _in_podmans_own_store(name: str) -> bool:
    """Images of other stores, such as ours, are read-only."""
    command = ["podman", "image", "list", "--filter", f"reference={name}", "--format", "{{.ReadOnly}}"]
    return "false" in run(command, ANSWER_SECONDS).split()


_HAS: dict[str, _Has] = {
    "docker": partial(_inspected, "docker"),
    "containerd": partial(cri.has_image, cri.CONTAINERD),
    "nerdctl": partial(_inspected, "nerdctl"),
    "podman": _in_podmans_own_store,
    "crio": partial(cri.has_image, cri.CRIO),
    "k3s": partial(cri.has_image, cri.K3S),
    "rke2": partial(cri.has_image, cri.K3S),
}
