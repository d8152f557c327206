"""A rule's file: read whole, every mistake named by its path, and the same again after its way to the seeder."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from imagedist.config import load
from imagedist.errors import ConfigError
from imagedist.preheat.rule import PreheatRule

WHOLE = """
name = "base"
images = ["python:3.12", "registry.example/team/*:1.*"]
into = ["blobs", "storage", "docker"]
missing = "report"
pin = false
[measured]
share = 0.4
images = 3
[nodes]
labels = { zone = "a", disk = ["ssd", "nvme"] }
[waves]
size = 50
failures = 3
[limits]
node = "50MiB/s"
site = "1GiB/s"
headroom = "10GiB"
deadline = "2h"
windows = ["mon-fri 22:00-06:00"]
attempts = 5
"""


def read(directory: Path, text: str) -> PreheatRule:
    (directory / "rule.toml").write_text(text)
    return load(directory / "rule.toml", PreheatRule)


def test_every_key_is_read_and_travels_as_json(tmp_path: Path) -> None:
    rule = read(tmp_path, WHOLE)
    assert rule.images == ("docker.io/library/python:3.12", "registry.example/team/*:1.*")
    assert (rule.limits.node, rule.limits.deadline) == (50 << 20, timedelta(hours=2))
    assert rule.nodes.match({"zone": "a", "disk": "nvme", "x": "y"})
    assert not rule.nodes.match({"zone": "a"})
    assert not rule.nodes.match({"zone": "b", "disk": "ssd"})
    assert PreheatRule.model_validate_json(rule.model_dump_json()) == rule


def test_the_shortest_rule_is_about_all_nodes_and_unpacks(tmp_path: Path) -> None:
    rule = read(tmp_path, 'name = "x"\nimages = ["app"]')
    assert (rule.into, rule.missing, rule.pin, rule.waves.size) == (("storage",), "repair", True, None)
    assert rule.nodes.match({})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('images = ["app"]', "missing key name"),
        ('name = "x"', "names no images"),
        ('name = "X y"\nimages = ["app"]', "bad value for name: expected up to 64 lower-case letters"),
        ('name = "x"\nimages = ["UPPER:1"]', "bad value for images.0: invalid reference"),
        ('name = "x"\nimages = ["team/*"]', "expected a pattern REGISTRY/REPOSITORY:TAG"),
        ('name = "x"\nimages = ["app"]\ninto = ["lxc"]', "bad value for into.0"),
        ('name = "x"\nimages = ["app"]\ninto = []', "bad value for into"),
        ('name = "x"\nimages = ["app"]\nnope = 1', "unknown key nope; allowed here: images, into, limits"),
        (
            'name = "x"\nimages = ["app"]\n[limits]\nwindows = ["night"]',
            "bad value for limits.windows.0: expected a window",
        ),
        ('name = "x"\nimages = ["app"]\n[limits]\ndeadline = "0s"', "expected a duration above zero"),
        ('name = "x"\nimages = ["app"]\n[limits]\nsite = "fast"', "bad value for limits.site: expected a rate"),
        ('name = "x"\nimages = ["app"]\n[waves]\nsize = 0', "bad value for waves.size"),
        (f'name = "x"\ninto = ["docker"]\nimages = ["app@sha256:{"0" * 64}"]', "a runtime pulls by tag"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert says in str(caught.value)
