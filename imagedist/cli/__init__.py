"""The command line (design.md §4.7). Each command: parse, call one room, show the result.

Starting costs what is imported, and a pull by the agent may take no longer than the agent does: only typer and the
standard library are imported here, everything else in the command that needs it.
"""

# In the order of `imagedist --help`.
# isort: off
from imagedist.cli.command import app, main
from imagedist.cli import pull as _pull
from imagedist.cli import store as _store
from imagedist.cli import diff as _diff
from imagedist.cli import repack as _repack
from imagedist.cli import node as _node
from imagedist.cli import swarm as _swarm
from imagedist.cli import runtimes as _runtimes
from imagedist.cli import site as _site
from imagedist.cli import nodes as _nodes
from imagedist.cli import preheat as _preheat
from imagedist.cli import sync as _sync
from imagedist.cli import verify as _verify
from imagedist.cli import restore as _restore
# isort: on

__all__ = [
    "_diff",
    "_node",
    "_nodes",
    "_preheat",
    "_pull",
    "_repack",
    "_restore",
    "_runtimes",
    "_site",
    "_store",
    "_swarm",
    "_sync",
    "_verify",
    "app",
    "main",
]
