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
from imagedist.config.loading import load, read_secret
from imagedist.config.proxy import ProxyConfig, ProxyTable, Upstream
from imagedist.config.seeder import SeederConfig, SeederTable, Site, SyncRule
from imagedist.config.tagging import TagRule, matches
from imagedist.config.values import Address, Rate, parse_address, parse_rate, parse_size, parse_url

__all__ = [
    "Address",
    "AgentConfig",
    "AgentTable",
    "LimitsTable",
    "ProxyConfig",
    "ProxyTable",
    "QuietTable",
    "Rate",
    "SeederConfig",
    "SeederTable",
    "SeedingTable",
    "Site",
    "SnapshotterTable",
    "StorageTable",
    "SyncRule",
    "TagRule",
    "UnpackTable",
    "Upstream",
    "load",
    "matches",
    "parse_address",
    "parse_rate",
    "parse_size",
    "parse_url",
    "read_secret",
]
