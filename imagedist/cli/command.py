"""What every command shares: the application, common options, errors as one line, interruption."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer
from typer.core import TyperGroup

from imagedist import __version__, ending
from imagedist.errors import InputError

if TYPE_CHECKING:
    from imagedist.agent.protocol import AgentStatus

P = ParamSpec("P")
R = TypeVar("R")

_UsageError: Any = typer.BadParameter.__base__
"""Of every complaint about arguments; typer exports only this child."""


class _Group(TyperGroup):
    """Complains about arguments in one line, as commands do about everything else."""

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            sys.exit(super().main(*args, **{**options, "standalone_mode": False}) or 0)
        except _UsageError as error:
            told = error.format_message()
            if "\n" in told:  # no command at all: this is the help
                print(told, file=sys.stderr)
            else:
                command = error.ctx.command_path if error.ctx else "imagedist"
                print(f"imagedist: {told.rstrip('.')}; see `{command} --help`", file=sys.stderr)
            sys.exit(error.exit_code)


app = typer.Typer(
    name="imagedist",
    cls=_Group,
    help="Gives container hosts an image: over a site's swarm, unpacked in parallel.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help is plain text: brackets mean what they say, and rich is not imported
)

Root = Annotated[Path | None, typer.Option("--root", help="The image store. Default: the agent's or the user's own.")]
Json = Annotated[bool, typer.Option("--json", help="JSON for machines instead of text.")]
Socket = Annotated[
    Path | None,
    # Whoever talks to it says better than an option could why it does not work.
    typer.Option("--socket", help="The agent's socket.", envvar="IMAGEDIST_SOCKET", readable=False),
]


def explained(command: Callable[P, R]) -> Callable[P, R]:
    """Ends a command with one readable line and the right exit code: 1 failed, 2 usage, 130 interrupted."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with ending.explained(bool(kwargs.get("as_json"))):
            return command(*args, **kwargs)

    return run


def interruptible(work: Coroutine[Any, Any, R]) -> R:
    """Runs a coroutine; SIGTERM cancels it as Ctrl-C does, so that it cleans up.

    Raises:
        KeyboardInterrupt: it was cancelled.
    """
    import asyncio

    async def main() -> R:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def store_root(given: Path | None) -> Path:
    """The store: the one given, that of this node's agent if this user may write there, or the user's own.

    Raises:
        InputError, SourceError: the agent to ask does not answer; or what was given is no store: only a pull makes one.
    """
    from imagedist.engine import default_root

    if given is not None:
        with contextlib.suppress(PermissionError):  # whoever reads it says that better
            if not (given / "overlay-images").is_dir():
                raise InputError(f"no image store at {given}: expected one that `imagedist pull --root` has made")
        return given
    agent = _agent_status()
    is_ours = agent is not None and os.access(agent.storage_root, os.W_OK)
    return Path(agent.storage_root) if agent is not None and is_ours else default_root()


def entered(root: Path | None) -> Path:
    """The store's root; of an ordinary user's store this process is root in his user namespace from now on."""
    from imagedist import rootless

    path = store_root(root)
    rootless.enter(path)
    return path


def stores_upon(root: Path, given: Sequence[Path] | None) -> list[Path]:
    """Stores whose containers may use the one at ``root``: those given, or podman's and those its agent was told.

    Raises:
        SourceError: there is an agent, but it does not answer.
    """
    from imagedist.engine import default_used_by

    if given:
        return list(given)
    agent = None
    with contextlib.suppress(InputError):  # the socket that was named is nobody's
        agent = _agent_status()
    told = agent.used_by if agent is not None and Path(agent.storage_root) == root.absolute() else ()
    return list(dict.fromkeys([*default_used_by(), *map(Path, told)]))


def _agent_status() -> AgentStatus | None:
    """None: no agent runs, or it is not for this user."""
    from imagedist.agent.client import AgentClient, find_socket

    socket = find_socket(None)
    return AgentClient(socket).status() if socket and os.access(socket, os.R_OK | os.W_OK) else None


def _version(wanted: bool) -> None:
    if wanted:
        print(f"imagedist {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


def main() -> None:
    """Does what the command line says; never returns."""
    try:
        app(standalone_mode=True)
    except InputError as error:  # raised while options were read
        print(f"imagedist: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
