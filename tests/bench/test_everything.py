"""``all`` says how it ended."""

from __future__ import annotations

import pytest

from bench.commands.everything import check_whole
from bench.result import Contestant
from imagedist.errors import ImagedistError
from tests.bench.test_result import OURS, result


def test_a_part_that_failed_is_a_failure_though_the_others_are_written() -> None:
    parts = (result(OURS),)
    check_whole(result(benchmark="all", parts=parts))
    failed = Contestant(name="swarm", not_run="no network namespaces")
    with pytest.raises(ImagedistError, match="swarm failed: no network namespaces"):
        check_whole(result(failed, benchmark="all", comparisons=(), parts=parts))
