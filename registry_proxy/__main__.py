"""``python -m registry_proxy``: the console script ``imagedist-proxy``."""

from registry_proxy.app import main

main()
