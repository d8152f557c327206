"""The metrics' names; that docs/metrics.md lists them is ``make check``'s business."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from imagedist import metrics

ALL = [metric for metric in vars(metrics).values() if isinstance(metric, Counter | Gauge | Histogram)]


def test_every_metric_has_a_name_of_ours_and_a_sentence() -> None:
    names = [metric._name for metric in ALL]
    assert len(names) == len(set(names))
    for metric in ALL:
        assert metric._name.startswith("imagedist_")
        assert metric._documentation.endswith(".")


def test_no_gauge_is_split_by_worker() -> None:
    modes = {metric._name: metric._multiprocess_mode for metric in ALL if isinstance(metric, Gauge)}
    assert {name: mode for name, mode in modes.items() if not mode.startswith("live")} == {}
