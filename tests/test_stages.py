from __future__ import annotations

from imagedist.oci.digest import Digest
from imagedist.progress import Event
from imagedist.stages import Stages

LAYER = Digest.of(b"layer")


def test_many_small_steps_become_few_events_that_add_up() -> None:
    now = 0.0
    events: list[Event] = []
    stages = Stages(events.append, lambda: now)
    for _ in range(1000):
        now += 0.001
        stages.fetched(LAYER, 10)
        stages.decoded(LAYER, 30)
    stages.extracted_to(LAYER, 20_000)
    stages.extracted(LAYER, 30_000)
    totals = {kind: sum(event.bytes or 0 for event in events if event.event == kind) for kind in ("fetched", "decoded")}
    assert totals == {"fetched": 10_000, "decoded": 30_000}
    assert sum(event.bytes or 0 for event in events if event.event == "extracted") == 30_000
    assert [event.is_complete for event in events if event.event == "extracted"][-1]
    assert len(events) <= 30


def test_summary_has_every_stage() -> None:
    stages = Stages(lambda event: None)
    stages.spent("decode", 1.5)
    stages.spent("decode", 0.25)
    done = stages.done("registry.example/app:1", "00", 2.0)
    assert done.stages == {"fetch": 0.0, "decode": 1.75, "extract": 0.0, "merge": 0.0}
