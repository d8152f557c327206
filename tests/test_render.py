"""What people read: sizes, tables, lines of a pull, bars."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from imagedist.bars import Bars, refreshed
from imagedist.oci.digest import Digest
from imagedist.progress import STAGES, Event, LayerSize
from imagedist.render import Lines, decimal, summary, swarm_table, swarm_text, table
from imagedist.swarm.session import TransferStatus

BASE, APP = Digest.of(b"base"), Digest.of(b"app")
RESOLVED = Event(
    event="resolved",
    reference="registry.example/app:1",
    layers=(
        LayerSize(digest=BASE, size_bytes=80_000_000, is_present=True),
        LayerSize(digest=APP, size_bytes=20_000_000),
    ),
)
DONE = Event(
    event="done",
    reference="registry.example/app:1",
    image="0123456789abcdef",
    seconds=0.5,
    bytes=20_000_000,
    decoded_bytes=50_000_000,
    stages={"fetch": 0.2, "inflate": 0.25, "hash": 0.1, "stage": 0.05, "extract": 0.1, "merge": 0.01},
    received_bytes={"peer": 15_000_000, "seeder": 5_000_000, "proxy": 0},
)
STORY = [
    RESOLVED,
    Event(event="fetched", layer=APP, bytes=20_000_000),
    Event(event="decoded", layer=APP, bytes=50_000_000),
    Event(event="extracted", layer=APP, bytes=50_000_000, is_complete=True),
    Event(event="merged", layer=APP),
    DONE,
]


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (52_140_000, "52.1 MB"),
        (999_960, "1.0 MB"),
        (5e18, "5000.0 PB"),
    ],
)
def test_sizes_have_one_decimal(size_bytes: float, text: str) -> None:
    assert decimal(size_bytes) == text


def test_a_table_is_as_wide_as_its_cells_and_numbers_end_at_the_right() -> None:
    assert table(("NAME", "SIZE"), [("a", "10"), ("longer", "9")], numbers=("SIZE",)).splitlines() == [
        "NAME    SIZE",
        "a         10",
        "longer     9",
    ]
    assert table(("NAME", "SIZE"), []) == "NAME  SIZE"


def test_a_swarm_is_one_line_per_torrent() -> None:
    status = TransferStatus(APP, 100, 50, False, 3, 1, 2000, 0, 7, {"peer": 40, "seeder": 10})
    head, row = swarm_table([status]).splitlines()
    assert head.split()[:4] == ["BLOB", "SIZE", "HERE", "PEERS"]
    assert row.split("  ")[0] == APP.short
    assert " 50% " in row


def test_a_swarms_sums_stand_below_it_and_its_rows_fit_the_screen() -> None:
    here = TransferStatus(BASE, 100, 100, True, 2, 1, 0, 3000, 7, {"peer": 100})
    coming = TransferStatus(APP, 100, 50, False, 3, 1, 2000, 0, 7, {"peer": 40, "seeder": 10})
    received = {"peer": 140, "seeder": 10, "proxy": 50}
    _, first, second, _, sums, share = swarm_text([here, coming], received).splitlines()
    assert first.startswith(APP.short)
    assert second.startswith(BASE.short)
    assert sums == "2 torrents, 1 complete; 5 connections to peers; 2.0 kB/s down, 3.0 kB/s up"
    assert (
        share == "P2P share 70% since the agent's start: 140 bytes from peer, 50 bytes from proxy, 10 bytes from seeder"
    )
    text = swarm_text([here, *[coming] * 30], received, room_lines=10)
    assert len(text.splitlines()) == 10
    assert "and 26 more" in text


def test_a_text_is_shown_afresh_until_ctrl_c() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=40, height=10, force_terminal=True, color_system=None)
    rooms: list[int] = []

    def text(room_lines: int) -> str:
        rooms.append(room_lines)
        return f"look {len(rooms)} [bold]"

    def sleep(seconds: float) -> None:
        if len(rooms) == 3:
            raise KeyboardInterrupt

    refreshed(text, console, sleep)
    assert rooms == [9, 9, 9]
    assert all(f"look {number} [bold]" in screen.getvalue() for number in (1, 2, 3))


def test_a_pipe_gets_what_was_here_what_came_and_how_busy_each_stage_was(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for event in STORY:
        lines(event)
    assert capsys.readouterr().out.splitlines() == [
        "registry.example/app:1: 2 layers, 1 here, 1 to get (20.0 MB)",
        "registry.example/app:1  0123456789ab  20.0 MB in 0.50 s (15.0 MB from peer, 5.0 MB from seeder)",
        "  busy, all layers together:",
        "  fetch       20.0 MB     0.20 s     100.0 MB/s",
        "  inflate     50.0 MB     0.25 s     200.0 MB/s",
        "  hash        50.0 MB     0.10 s     500.0 MB/s",
        "  stage       50.0 MB     0.05 s       1.0 GB/s",
        "  extract     50.0 MB     0.10 s     500.0 MB/s",
        "  merge      1 layers     0.01 s",
    ]


def test_a_pull_with_nothing_to_do_has_no_stages_to_show() -> None:
    event = Event(event="done", reference="app", image="ab", seconds=0.01, bytes=0, stages=dict.fromkeys(STAGES, 0.0))
    assert summary(event) == "app  ab  0 bytes in 0.01 s"


def shown(events: Sequence[Event], height: int = 24, width: int = 120) -> str:
    screen = io.StringIO()
    console = Console(file=screen, width=width, height=height, force_terminal=True, color_system=None)
    with Bars(console) as bars:
        for event in events:
            bars(event)
    return screen.getvalue()


def test_a_terminal_gets_a_row_per_missing_layer_and_the_summary() -> None:
    text = shown(STORY)
    assert APP.short in text
    assert BASE.short not in text
    assert "merged" in text
    assert "decode 50.0 MB" in text
    assert "busy, all layers together" in text


@pytest.mark.parametrize(
    ("events", "state"),
    [
        (STORY[:1], "waiting"),
        ([RESOLVED, Event(event="fetched", layer=APP, bytes=1)], "fetching"),
        (STORY[:2], "decoding"),
        ([*STORY[:3], Event(event="extracted", layer=APP, bytes=1)], "extracting"),
        (STORY[:4], "waits to merge"),
    ],
)
def test_a_row_says_what_its_layer_is_at(events: Sequence[Event], state: str) -> None:
    assert state in shown(events)


def test_more_layers_than_the_screen_has_lines_are_summed_up() -> None:
    layers = tuple(LayerSize(digest=Digest.of(b"%d" % number), size_bytes=1) for number in range(127))
    events = [Event(event="resolved", reference="app", layers=layers), Event(event="merged", layer=layers[0].digest)]
    assert "and 120 more; 1 of 127 merged" in shown(events, height=10)


@pytest.mark.parametrize(("width", "state"), [(80, "waits to merge"), (40, "waits")])
def test_a_row_is_one_line_also_on_a_narrow_screen(width: int, state: str) -> None:
    rows = shown(STORY[:4], width=width).splitlines()
    assert any(APP.short[:5] in row and state in row for row in rows)


def test_events_of_layers_nobody_named_are_left_out() -> None:
    told = shown([Event(event="fetched", layer=APP, bytes=1), Event(event="note", message="[bold] and [/x] stay")])
    assert "[bold] and [/x] stay" in told
