"""Whether this machine can have a test network."""

from __future__ import annotations

import os
import shutil
from functools import cache

from bench.network.namespace import Namespace
from bench.processes import search_path
from imagedist.errors import ImagedistError

_PROGRAMS = {"ip": "iproute2", "tc": "iproute2", "nsenter": "util-linux"}


@cache
def why_not() -> str | None:
    """What is missing, in words for the user; None: nothing. Tried out with a namespace that is gone afterwards."""
    if os.geteuid() != 0:
        return "needs root"
    absent = {package for program, package in _PROGRAMS.items() if not shutil.which(program, path=search_path())}
    if absent:
        return f"needs the Debian packages {', '.join(sorted(absent))}"
    try:
        namespace = Namespace()
    except (ImagedistError, OSError) as error:
        return f"needs network namespaces: {error}"
    try:
        namespace.ip("link add one type veth peer name two")
        namespace.ip("link set one up", "route add 10.0.0.0/8 dev one congctl cubic")
        namespace.tc("qdisc add dev one root tbf rate 8mbit burst 16000 limit 150000")
        namespace.sysctl("net/ipv4/ip_forward", 1)
    except ImagedistError as error:
        return f"needs veth, tbf and cubic in the kernel, and /proc/sys writable: {error}"
    finally:
        namespace.close()
    return None
