"""A Unix socket's path: one listener, its mode, and nothing else touched."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from imagedist.errors import InputError, StorageError
from imagedist.unix_socket import listening, private_directory


def listen(path: Path, mode: int = 0o660) -> socket.socket:
    """Until the stack of the test is left."""
    return stack.enter_context(listening(path, mode, "program", "its.socket"))


stack = ExitStack()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    with stack:
        yield


def leave_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_of_many_that_start_at_once_on_a_dead_socket_one_listens_and_can_be_reached(tmp_path: Path) -> None:
    path, together = tmp_path / "s", threading.Barrier(8)

    def start() -> socket.socket | None:
        together.wait()
        try:
            return listen(path)
        except InputError:
            return None

    with ThreadPoolExecutor(8) as threads:
        for _ in range(10):
            leave_dead(path)
            futures = [threads.submit(start) for _ in range(8)]
            (listener,) = [made for future in futures if (made := future.result()) is not None]
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                listener.accept()[0].close()
            stack.close()
            assert not path.exists()


def test_a_listener_that_does_not_come_to_accept_is_no_dead_one(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, ExitStack() as waiting:
        busy.bind(str(tmp_path / "s"))
        busy.listen(0)
        for _ in range(2):
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(str(tmp_path / "s"))
        with pytest.raises(InputError, match="another program listens"):
            listen(tmp_path / "s")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_mode_is_the_one_asked_for_under_any_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        for name, mode in (("one", 0o660), ("other", 0o600)):
            listen(tmp_path / name, mode)
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_symlink_is_neither_followed_nor_replaced(tmp_path: Path) -> None:
    target = tmp_path / "target"
    leave_dead(target)
    target.chmod(0o777)
    (tmp_path / "s").symlink_to(target)
    with pytest.raises(InputError, match="is no socket"):
        listen(tmp_path / "s")
    assert stat.S_IMODE(target.stat().st_mode) == 0o777


def test_what_another_put_in_its_place_stays_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listen(path)
    path.unlink()
    path.write_text("another's")
    stack.close()
    assert path.read_text() == "another's"


def test_a_private_directory_is_made_or_mended_but_no_symlink_followed(tmp_path: Path) -> None:
    private = tmp_path / "private"
    for _ in range(2):
        private_directory(private)
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        private.chmod(0o755)
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="Not a directory"):
        private_directory(tmp_path / "link")
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o755


@pytest.mark.root
def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    os.chown(tmp_path / "private", 65534, 65534)
    with pytest.raises(StorageError, match="another user made it"):
        private_directory(tmp_path / "private")
