"""What an ordinary user may not look at is said to be unknown, and is no problem."""

from __future__ import annotations

import json
import socket

import pytest

from tests.support.user import ordinary_user


@pytest.mark.root
@pytest.mark.e2e("uidmap")  # not beside the tests that nothing changes /etc/passwd: the user is in it
def test_an_ordinary_user_is_told_what_could_not_be_checked() -> None:
    with ordinary_user() as user, socket.socket(socket.AF_UNIX) as agent:
        path = user.home / "agent.sock"
        agent.bind(str(path))
        path.chmod(0o600)
        agent.listen()
        done = user.imagedist("doctor", "--json", "--socket", str(path))
        path.unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    found = {finding["code"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["agent-unasked"]["severity"] == "unknown"
    assert found["agent-unasked"]["fix"] == "sudo imagedist doctor"
    assert found["privileges"]["severity"] != "bad"
