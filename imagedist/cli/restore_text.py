"""What `imagedist restore` prints."""

from __future__ import annotations

from collections import Counter

from imagedist.render import decimal, table
from imagedist.site_sync import RestorePlan, RestoreStatus

_LEFT_ALONE = ("here", "newer", "deleted")


def plan_text(plan: RestorePlan) -> str:
    """A line for each tag that is missing, and the sums."""
    missing = [line for line in plan.lines if line.action not in _LEFT_ALONE]
    if not missing:
        return summary(plan)
    rows = [
        (f"{line.name}:{line.tag}", line.action, line.digest.short, str(line.blobs), decimal(line.bytes))
        for line in missing
    ]
    text = table(("TAG", "WHAT", "DIGEST", "BLOBS", "BYTES"), rows, numbers=("BLOBS", "BYTES"))
    blobs, size_bytes = sum(line.blobs for line in missing), sum(line.bytes for line in missing)
    return (
        f"{text}\nfrom {plan.source}: {len(missing)} of {_tags(len(plan.lines))}, {blobs} blobs, {decimal(size_bytes)}"
    )


def summary(plan: RestorePlan) -> str:
    """How many tags are there, and what was left alone."""
    counts = Counter(line.action for line in plan.lines)
    missing = sum(count for action, count in counts.items() if action not in _LEFT_ALONE)
    text = f"{counts['here']} of {_tags(len(plan.lines))} of {plan.source} are here"
    if missing:
        text += f", {missing} are not"
    if counts["newer"]:
        text += f", {counts['newer']} mean something newer here"
    if counts["deleted"]:
        text += f", {counts['deleted']} were deleted here and stay so"
    return text


def progress(status: RestoreStatus) -> str:
    """How far it is, in a line."""
    text = f"{_tags(status.waiting)} to do"
    if status.bytes_total:
        text += f" ({decimal(status.bytes_done)} of {decimal(status.bytes_total)} under way)"
    return f"{text}, {status.stuck} of them fail" if status.stuck else text


def _tags(count: int) -> str:
    return f"{count} tag{'' if count == 1 else 's'}"
