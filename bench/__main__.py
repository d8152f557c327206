"""The console script, and ``python -m bench``: Ctrl-C ends it in one line from its first moment on."""

from __future__ import annotations


def main() -> None:
    """Does what the command line says."""
    try:
        from bench.cli import main as any_command

        any_command()
    except KeyboardInterrupt:  # before there was anything to clean up
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
