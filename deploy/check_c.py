"""Compiles imagedist/unpack/c with every warning an error, for ``make check``; nothing without a compiler."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

_FLAGS = ["-std=c11", "-O2", "-fsyntax-only", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]


def main() -> int:
    compiler, headers = shutil.which("cc"), Path(sysconfig.get_path("include"))
    if compiler is None or not (headers / "Python.h").exists():
        print("imagedist/unpack/c: not checked, for want of a C compiler or of Python's headers")
        return 0
    sources = sorted(str(path) for path in Path("imagedist/unpack/c").glob("*.c"))
    return subprocess.run([compiler, *_FLAGS, f"-isystem{headers}", *sources]).returncode


if __name__ == "__main__":
    sys.exit(main())
