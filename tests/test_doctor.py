from __future__ import annotations

from types import ModuleType

import pytest

from imagedist import doctor
from imagedist.unpack import extension


@pytest.mark.parametrize(("compiled", "verdict"), [(None, "warn"), (ModuleType("_ordinary"), "ok")])
async def test_doctor_says_whether_unpacking_is_compiled(
    compiled: ModuleType | None, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extension, "compiled", compiled)
    (found,) = [finding for finding in await doctor.examine(None, None) if finding.what == "unpacking in C"]
    assert found.verdict == verdict
