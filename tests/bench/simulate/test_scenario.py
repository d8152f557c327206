"""Scenarios from options and files: what is impossible is said before anything starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.simulate.options import churn_of, classes_of, stragglers_of
from bench.simulate.population import populate
from bench.simulate.scenario import load, scenario_of
from bench.simulate.upstream import supplies
from imagedist.errors import InputError, StorageError
from tests.bench.simulate.scenarios import RATE, small


def test_a_file_may_say_everything(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(
        'nodes = 100\nsize = "2GB"\nstate = "warm"\nupstream = "50MB/s"\n'
        '[[classes]]\nname = "old"\nshare = 0.25\nup = "50MB/s"\ndown = "100MB/s"\n'
        '[[classes]]\nname = "new"\nshare = 0.75\nup = "1GB/s"\ndown = "1GB/s"\n'
        '[stragglers]\nshare = 0.05\nrate = "1MB/s"\n'
    )
    scenario = scenario_of(load(file), str(file))
    assert (scenario.size, scenario.classes[0].up, scenario.stragglers.rate) == (2_000_000_000, 50e6, 1e6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nodes": 0}, "nodes"),
        ({"nodes": 20_001}, "nodes"),
        ({"nodes": 4, "wheels": 4}, "wheels"),
        ({"nodes": 4, "sites": 5}, "sites"),
        ({"nodes": 4, "preheated": 1}, "nobody is left"),
        ({"nodes": 4, "classes": [{"share": 0.5, "up": 1, "down": 1}]}, "add up to 1"),
        ({"nodes": 4, "size": "3MB", "layers": 8}, "fewer layers"),
        ({"nodes": 4, "upstream": "fast"}, "upstream"),
        ({"nodes": 4, "stragglers": {"share": 2}}, "stragglers.share"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(values: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        scenario_of(values, "test")


def test_a_file_that_is_not_there_or_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("nodes = = 3")
    with pytest.raises(InputError, match="expected TOML"):
        load(tmp_path / "bad.toml")
    with pytest.raises(StorageError):
        load(tmp_path / "absent.toml")


def test_options_are_read_as_they_are_written() -> None:
    assert classes_of(["old:0.5:1MB/s:2MB/s"], None, None) == [
        {"name": "old", "share": 0.5, "up": "1MB/s", "down": "2MB/s"}
    ]
    assert classes_of([], "1MB/s", None) == [{"up": "1MB/s", "down": "1MB/s"}]
    assert classes_of([], None, None) is None
    assert stragglers_of("0.1:2MB/s") == {"share": 0.1, "rate": "2MB/s"}
    assert churn_of("0.1:20") == {"per_minute": 0.1, "back": 20.0}
    for wrong in (lambda: stragglers_of("0.1"), lambda: churn_of("often"), lambda: classes_of(["a:b"], None, None)):
        with pytest.raises(InputError):
            wrong()
    with pytest.raises(InputError, match="leave --upload"):
        classes_of(["old:0.5:1MB/s:2MB/s"], "1MB/s", None)


def test_classes_have_exactly_their_shares_and_stragglers_are_among_them() -> None:
    values = {"classes": [{"share": 0.25, "up": RATE, "down": RATE}, {"share": 0.75, "up": 3 * RATE, "down": 2 * RATE}]}
    scenario = small(40, **values, stragglers={"share": 0.1, "rate": RATE / 10})
    population = populate(scenario, 40, np.random.default_rng(1))
    assert population.is_straggler.sum() == 4
    assert (population.up[population.is_straggler] < RATE / 9).all()
    assert ((population.down < 1.5 * RATE) & ~population.is_straggler).sum() <= 10


def test_sites_share_the_registrys_line_or_copy_from_the_first() -> None:
    shared = supplies(small(8, sites=4))
    assert len({one.ends_at for one in shared}) == 1
    first, *others = supplies(small(8, sites=4, inter_site=3 * RATE))
    assert first.ends_at == pytest.approx(shared[0].ends_at / 4)
    assert all(one.begins_at == first.ends_at for one in others)
    assert first.present_bytes(first.ends_at / 2) == pytest.approx(first.blob_bytes / 2)
    assert all(one.torrent_at == 0.0 for one in supplies(small(2, state="warm")))
