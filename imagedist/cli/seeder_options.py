"""The options of every command that asks the site's seeder: whom, with which token, and how the answer is shown."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from imagedist.cli.command import Json, Socket, explained, interruptible
from imagedist.cli.site_access import Config, Seeder, TokenFile, seeder_access

if TYPE_CHECKING:
    from imagedist.site.seeders import Seeders

P = ParamSpec("P")
AnswerT = TypeVar("AnswerT")


class Asked(NamedTuple):
    """What these options said."""

    seeder: list[str] | None
    token_file: Path | None
    config: Path | None
    socket: Path | None
    as_json: bool

    def ask(self, question: Callable[[Seeders], Awaitable[AnswerT]]) -> AnswerT:
        """One question."""
        return ask_seeder(question, self.seeder, self.token_file, self.config, self.socket)


def ask_seeder(
    ask: Callable[[Seeders], Awaitable[AnswerT]],
    seeder: list[str] | None,
    token_file: Path | None,
    config: Path | None,
    socket: Path | None,
) -> AnswerT:
    """One question, with the options that say whom."""
    access = seeder_access(seeder, token_file, config, socket)

    async def asked() -> AnswerT:
        async with access.opened() as site:
            return await ask(site.seeders)

    return interruptible(asked())


def _options(
    seeder: Seeder = None,
    token_file: TokenFile = None,
    config: Config = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """The options themselves, as typer reads them."""


def asks_seeder(command: Callable[Concatenate[Asked, P], None]) -> Callable[..., None]:
    """A command, ``explained``, with the options above after its own; its first argument is what they said."""

    @wraps(command)
    def run(**given: Any) -> None:
        asked = Asked(*(given.pop(name) for name in Asked._fields))
        anyhow: Any = command  # by name, as the signature below has them
        anyhow(asked, **given)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = list(inspect.signature(_options, eval_str=True).parameters.values())
    wrapped: Any = explained(run)
    wrapped.__signature__ = inspect.Signature(
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own + shared]
    )
    wrapped.__annotations__ = {each.name: each.annotation for each in own + shared}
    told: Callable[..., None] = wrapped
    return told
