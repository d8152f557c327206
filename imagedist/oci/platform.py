"""What a machine runs: ``os/architecture[/variant]`` (OCI image spec, image-index.md)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from imagedist.errors import InputError

_MACHINES = {"x86_64": ("amd64", None), "aarch64": ("arm64", "v8"), "armv7l": ("arm", "v7")}
"""uname(2) machine → architecture and variant as Go names them."""


@dataclass(frozen=True, slots=True)
class Platform:
    """``os/architecture[/variant]``; a plain dataclass, so that the command line can parse one at little cost."""

    os: str = "linux"
    architecture: str = ""
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """
        Raises:
            InputError: not a platform.
        """
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or not all(parts):
            raise InputError(f"invalid platform {text!r}: expected os/architecture, for example linux/amd64")
        return cls(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else None)

    @classmethod
    def of_this_machine(cls) -> Platform:
        machine = os.uname().machine
        architecture, variant = _MACHINES.get(machine, (machine, None))
        return cls(os="linux", architecture=architecture, variant=variant)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)
