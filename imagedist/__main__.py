"""``python -m imagedist``."""

from imagedist.cli import main

main()
