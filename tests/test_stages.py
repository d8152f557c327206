from __future__ import annotations

import asyncio

from imagedist.oci.digest import Digest
from imagedist.progress import STAGES, Event
from imagedist.stages import Stages

LAYER = Digest.of(b"layer")


async def test_many_small_steps_become_few_events_that_add_up() -> None:
    events: list[Event] = []
    told_some = asyncio.Event()

    def observe(event: Event) -> None:
        events.append(event)
        told_some.set()

    stages = Stages(observe)
    telling = asyncio.create_task(stages.tell_regularly())
    for _ in range(1000):
        stages.counted("fetched", LAYER, 10)
        stages.counted("decoded", LAYER, 30)
    await told_some.wait()
    telling.cancel()
    stages.counted("fetched", LAYER, 10)
    stages.extracted_to(LAYER, 20_000)
    stages.extracted_to(LAYER, 10_000)
    stages.extracted(LAYER, 30_030)
    told = {
        kind: [event.bytes for event in events if event.event == kind] for kind in ("fetched", "decoded", "extracted")
    }
    assert told == {"fetched": [10_000, 10], "decoded": [30_000], "extracted": [30_030]}
    assert events[-1].is_complete


def test_summary_has_every_stage() -> None:
    events: list[Event] = []
    stages = Stages(events.append)
    stages.spent("inflate", 1.5)
    stages.spent("inflate", 0.25)
    stages.done("registry.example/app:1", "00", 2.0)
    assert events[0].stages == dict.fromkeys(STAGES, 0.0) | {"inflate": 1.75}
