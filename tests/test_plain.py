"""What others say is shown on a terminal, and never obeyed."""

from __future__ import annotations

import pytest

from imagedist.doctor.finding import Finding
from imagedist.doctor.text import text
from imagedist.ending import explained
from imagedist.errors import SourceError
from imagedist.nodes import NodeStatus
from imagedist.plain import one_line, plain
from imagedist.progress import Event
from imagedist.render import Lines, node_table

HOSTILE = "a\x1b]0;title\x07\x9b2J\u202eb\r\udc80"
SHOWN = r"a\x1b]0;title\x07\x9b2J\u202eb\r\udc80"


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert plain(HOSTILE) == one_line(HOSTILE) == SHOWN
    assert plain(f"{HOSTILE}\nnext") == f"{SHOWN}\nnext"
    assert one_line("a row\nthat is one") == r"a row\nthat is one"
    assert plain("größer 你好 -> é") == "größer 你好 -> é"


def test_a_hostile_node_gets_one_row_and_no_say_over_the_terminal() -> None:
    said = HOSTILE.removesuffix("\udc80")  # JSON has none
    node = NodeStatus(id="n1", labels={"zone": f"{said}\nfaked  alive"}, version=said, seen_seconds_ago=1)
    told = node_table([node])
    assert len(told.split("\n")) == 3
    assert told.count(SHOWN.removesuffix(r"\udc80")) == 2
    assert all(line.isprintable() for line in told.split("\n"))


def test_errors_findings_and_notes_are_shown_alike(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), explained(as_json=False):
        raise SourceError(f"registry said {HOSTILE}")
    Lines()(Event(event="note", message=HOSTILE))
    print(text([Finding("warn", "code", HOSTILE, HOSTILE, HOSTILE)]))
    told = capsys.readouterr()
    assert told.err == f"imagedist: registry said {SHOWN}\n"
    assert told.out.count(SHOWN) == 4
    assert all(line.isprintable() for line in told.out.split("\n"))
