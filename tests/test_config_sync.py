"""Sync rules as they are written: what is wrong is named with its path and the remedy; ranges, schedules, hours."""

from __future__ import annotations

from datetime import datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from imagedist.config import SeederConfig, load, newest_versions
from imagedist.config.ranges import VersionRange
from imagedist.config.schedules import Hours, Schedule
from imagedist.errors import ConfigError

SEEDER = """
[seeder]
site = "bj"
listen = "0.0.0.0:5002"
bittorrent = "0.0.0.0:6881"
site_blobs = "/var/lib/imagedist/site"
site_proxies = ["http://127.0.0.1:5001"]
[sites.sh]
proxy = "http://sh.example:5001"
seeder = "http://sh.example:5002"
"""
RULE = '[[sync]]\nrepositories = ["team/*"]\nto = ["sh"]\n'


def loaded(tmp_path: Path, text: str) -> SeederConfig:
    path = tmp_path / "seeder.toml"
    path.write_text(text)
    return load(path, SeederConfig)


def test_a_rule_says_what_goes_where_from_where_and_when(tmp_path: Path) -> None:
    text = (
        SEEDER
        + """
[[sync]]
from = "local"
repositories = ["team/*", "/lib-[0-9]+/"]
tags = { match = ["v*"], semver = ">=1.2 <3", newest = 20, labels = { "org.example.sync" = "yes*" } }
to = ["sh", "bj"]
platforms = ["linux/amd64", "linux/arm64/v8"]
delete = true
schedule = "*/15 * * * *"
[transfer]
bandwidth = "50MiB/s"
hours = [{ at = "08:00-20:00", days = "mon-fri", bandwidth = "10MiB/s" }, { at = "22:00-24:00", bandwidth = "none" }]
"""
    )
    config = loaded(tmp_path, text)
    (rule,) = config.sync
    assert rule.source == "local"
    assert rule.tags.semver == VersionRange(">=1.2 <3")
    assert config.transfer.hours[0].days == frozenset(range(5))
    assert config.transfer.hours[0].bandwidth == 10 << 20
    assert config.transfer.hours[1].bandwidth is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            RULE.replace('"sh"', '"gz"'),
            "sync.0.to names 'gz', which is no site and no backup: add [sites.gz] or [backups.gz], or",
        ),
        (RULE.replace("team/*", "/(/"), "bad value for sync.0.repositories.0: expected a glob"),
        (RULE + 'tags = { semver = "one" }', 'bad value for sync.0.tags.semver: expected a range such as ">=1.2"'),
        (RULE + 'tags = { semver = ">2 <1" }', "bad value for sync.0.tags.semver: no version is in '>2 <1'"),
        (RULE + 'tags = { semver = ">=1.2,<2" }', "bad value for sync.0.tags.semver: expected a range"),
        (RULE + 'tags = { match = ["/[/"] }', "bad value for sync.0.tags.match.0: expected a glob"),
        (RULE + "tags = { newest = 0 }", "bad value for sync.0.tags.newest: "),
        (RULE + "tags = { oldest = 3 }", "unknown key sync.0.tags.oldest; allowed here: labels, match, newest, semver"),
        (RULE + 'schedule = "often"', 'bad value for sync.0.schedule: expected a cron expression such as "*/15'),
        (RULE + 'schedule = "0 0 30 2 *"', "got '0 0 30 2 *': Bad day-of-month"),
        (RULE + 'platforms = ["linux"]', 'bad value for sync.0.platforms.0: expected a platform such as "linux/amd64"'),
        (RULE + "where = 1", "unknown key sync.0.where; allowed here: delete, from, platforms"),
        (RULE.replace('to = ["sh"]', "to = []"), "bad value for sync.0.to: "),
        ('[[sync]]\nto = ["sh"]', "missing key sync.0.repositories"),
        (RULE + RULE, "sync.1 says again what sync.0 says of team/* to sh"),
        ('[transfer]\nhours = [{ at = "25:00-26:00", bandwidth = "none" }]', "bad value for transfer.hours.0.at"),
        ('[transfer]\nhours = [{ at = "01:00-01:00", bandwidth = "none" }]', "is no time at all"),
        (
            '[transfer]\nhours = [{ at = "01:00-02:00", days = "fry", bandwidth = "none" }]',
            'bad value for transfer.hours.0.days: expected days such as "mon-fri,sun"',
        ),
        ('[backups.sh]\nregistry = "http://x"', "backups.sh has the name of a site"),
        ('[backups.b]\nregistry = "ftp://x"', "bad value for backups.b.registry"),
        ('[backups.b]\nregistry = "http://x"\nprefix = "A/"', "bad value for backups.b.prefix: expected the beginning"),
        ('[backups.b]\nregistry = "http://x"\nusername = "a"', "username and password_file go together"),
        ('[backups.b]\nregistry = "http://x"\nwhere = 1', "unknown key backups.b.where; allowed here: bandwidth"),
        ('[sites.bj]\nproxy = "http://x"\nseeder = "http://x"', "sites.bj has this site's own name"),
    ],
)
def test_a_wrong_rule_is_named_by_its_path_with_a_remedy(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=r"seeder\.toml") as caught:
        loaded(tmp_path, SEEDER + text)
    assert expected in str(caught.value)


def test_rules_need_a_proxy_that_fetches(tmp_path: Path) -> None:
    without = SEEDER.replace('site_proxies = ["http://127.0.0.1:5001"]', "")
    with pytest.raises(ConfigError, match=r"give seeder\.site_proxies"):
        loaded(tmp_path, without + RULE)


def test_a_time_zone_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"seeder\.timezone: expected a time zone"):
        loaded(tmp_path, SEEDER.replace("[sites.sh]", 'timezone = "Mars/Base"\n[sites.sh]'))


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        (">=1.2", ["1.2.0", "v1.10.3"]),
        ("^1", ["1.2.0", "v1.10.3", "1.1.9"]),
        (">=1.3.0-rc.1 <1.4", ["1.3.0-rc.2"]),
        ("1.1.x || 2", ["1.1.9"]),
        ("*", ["1.2.0", "v1.10.3", "1.1.9"]),
    ],
)
def test_a_range_has_the_versions_that_npm_says(text: str, tags: list[str]) -> None:
    all_tags = ["1.2.0", "v1.10.3", "1.1.9", "1.3.0-rc.2", "1.2", "latest", "1.2.3.4", "01.2.3"]
    assert [tag for tag in all_tags if VersionRange(text).has(tag)] == tags


def test_the_newest_versions_are_the_highest_ones() -> None:
    tags = ["1.9.0", "1.10.0", "v2.0.0-rc.1", "2.0.0", "latest"]
    assert newest_versions(tags, 3) == ["2.0.0", "v2.0.0-rc.1", "1.10.0"]


def test_a_schedule_is_in_its_time_zone() -> None:
    shanghai = ZoneInfo("Asia/Shanghai")
    due = Schedule("30 2 * * *").after(datetime(2026, 11, 27, 3, 0, tzinfo=shanghai))
    assert due == datetime(2026, 11, 28, 2, 30, tzinfo=shanghai)


@pytest.mark.parametrize(
    ("text", "moment", "are"),
    [
        ("08:00-20:00", time(8), True),
        ("08:00-20:00", time(20), False),
        ("22:00-06:00", time(23), True),
        ("22:00-06:00", time(5, 59), True),
        ("22:00-06:00", time(12), False),
        ("00:00-24:00", time(12), True),
        ("22:00-24:00", time(23, 59), True),
        ("22:00-24:00", time(0), False),
    ],
)
def test_hours_of_the_day_go_over_midnight_too(text: str, moment: time, are: bool) -> None:
    assert Hours(text).have(moment) is are
