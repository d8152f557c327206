"""``python -m seeder``, the same as ``imagedist-seeder``."""

from seeder.app import main

main()
