"""Text of others on a terminal: what nodes, registries and images say is shown, and never obeyed.

A label, a tag or an error may hold control characters: sequences that clear the screen, rename the window, or write an
answer as if it had been typed.
"""

from __future__ import annotations


def plain(text: str) -> str:
    """Several lines; what is not printable is shown as an escape, ``\\x1b``, and so is ``U+202E``, which turns text."""
    if text.isprintable():
        return text
    return "\n".join(map(one_line, text.split("\n")))


def one_line(text: str) -> str:
    """The same, with line breaks shown as well: a row stays one."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )
