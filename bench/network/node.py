"""One machine of a site: programs run on it, questions asked from it, its access link."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bench.network.link import Direction, Link
from bench.network.namespace import Namespace
from bench.processes import daemon, run
from imagedist.errors import ImagedistError

_ANSWER_SECONDS = 30.0


class Node:
    """One machine of a site.

    Attributes:
        address: its own in the site.
        up, down: its access link, as it sees it.
    """

    def __init__(self, name: str, address: str, namespace: Namespace, up: Direction, down: Direction) -> None:
        self.name = name
        self.address = address
        self.namespace = namespace
        self.up = up
        self.down = down
        self.link = Link(up, down)

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.address} {self.namespace.path}>"

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs ``argv`` on this node, with the process id of ``argv``'s own program."""
        return self.namespace.command(argv)

    def run(self, argv: Sequence[str], env: Mapping[str, str] | None = None, timeout_seconds: float = 120.0) -> str:
        """Runs a program here to its end; what it printed. Raises ImagedistError: it failed or hung."""
        return run(self.command(argv), env, timeout_seconds)

    @contextmanager
    def daemon(self, argv: Sequence[str], log: Path, ready_url: str) -> Iterator[int]:
        """Runs a daemon here until the block ends; its process id, once the URL answers on this node.

        Raises:
            ImagedistError: it ended or was not ready in time; names the last line of its log.
        """
        with daemon(self.command(argv), log, lambda: self.answers(ready_url)) as process:
            yield process

    def get(self, url: str) -> bytes:
        """The body of an HTTP answer, asked for from this node.

        Raises:
            OSError, http.client.HTTPException: nobody answers. ImagedistError: a status of 400 or more.
        """
        parts = urlsplit(url)
        assert parts.hostname is not None
        connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_ANSWER_SECONDS)
        try:
            with self.namespace.entered():
                connection.connect()
            connection.request("GET", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}")
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise ImagedistError(f"{url} answered {answer.status}: {body[:200]!r}")
        return body

    def block(self, port: int) -> None:
        """Drops whatever comes to a TCP port of this node from others, as a firewall does. Needs iptables."""
        self.run(["iptables", "--wait", "--append", "INPUT", *_to_port(port)])

    def unblock(self, port: int) -> None:
        """Lets it in again. Raises ImagedistError: it was not blocked."""
        self.run(["iptables", "--wait", "--delete", "INPUT", *_to_port(port)])

    def answers(self, url: str) -> bool:
        """Whether a URL answers here with a status below 400."""
        try:
            self.get(url)
        except (OSError, http.client.HTTPException, ImagedistError):
            return False
        return True


def _to_port(port: int) -> list[str]:
    return ["--in-interface", "eth0", "--protocol", "tcp", "--dport", str(port), "--jump", "DROP"]
