"""The crowd of simulated nodes is heard, and measured."""

from __future__ import annotations

from bench.crowd import Scale, run
from bench.result import Result


def test_every_simulated_node_is_known_and_confirms_its_preheat() -> None:
    kept: list[Result] = []
    result = run(Scale(20, 1.0, beat_seconds=0.5, join_seconds=0.5), lambda line: None, kept.append)
    said = {verdict.what: verdict.value for verdict in result.verdicts}
    assert said["nodes that confirmed their preheat"] == 20
    assert said["anonymous memory at most"] > 10
    answered = {what: int(count) for count, _, what in map(part, result.settings["answered"].split(", "))}
    assert set(answered) <= {"heartbeat 204", "poll 200"}
    assert answered["heartbeat 204"] >= 20
    assert len(kept[0].verdicts) == 1, "what they cost while they came is kept before the rest"


def part(said: str) -> tuple[str, str, str]:
    return said.partition(" ")
