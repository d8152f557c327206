"""The three configuration files (design.md §4.6): TOML in, frozen settings out, every mistake named by its path."""

from imagedist.config.agent import (
    AgentConfig,
    AgentTable,
    LimitsTable,
    QuietTable,
    SeedingTable,
    SnapshotterTable,
    StorageTable,
    UnpackTable,
)
from imagedist.config.backups import Backup
from imagedist.config.loading import load, parse, read_secret
from imagedist.config.proxy import ProxyConfig, ProxyTable, Upstream
from imagedist.config.ranges import newest_versions
from imagedist.config.schedules import Schedule
from imagedist.config.seeder import SeederConfig, SeederTable, Site
from imagedist.config.syncing import SyncRule, SyncTags, TransferTable
from imagedist.config.tagging import TagRule, matches, parse_pattern
from imagedist.config.values import NODE_NAME, Address, Rate, parse_address, parse_rate, parse_size, parse_url

__all__ = [
    "NODE_NAME",
    "Address",
    "AgentConfig",
    "AgentTable",
    "Backup",
    "LimitsTable",
    "ProxyConfig",
    "ProxyTable",
    "QuietTable",
    "Rate",
    "Schedule",
    "SeederConfig",
    "SeederTable",
    "SeedingTable",
    "Site",
    "SnapshotterTable",
    "StorageTable",
    "SyncRule",
    "SyncTags",
    "TagRule",
    "TransferTable",
    "UnpackTable",
    "Upstream",
    "load",
    "matches",
    "newest_versions",
    "parse",
    "parse_address",
    "parse_pattern",
    "parse_rate",
    "parse_size",
    "parse_url",
    "read_secret",
]
