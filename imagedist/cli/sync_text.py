"""What `imagedist sync` prints."""

from __future__ import annotations

import time
from collections import Counter

from imagedist.render import decimal, duration, table
from imagedist.site_sync import SyncPlan, SyncStatus, TaskStatus

_SHOWN = 20
"""Tags of the queue, and conflicts."""


def plan_text(plan: SyncPlan) -> str:
    """A line for each tag and site, and the sums of each site."""
    if not plan.lines:
        return "nothing to move" if not plan.errors else "nothing else to move"
    rows = [
        (
            line.site,
            f"{line.name}:{line.tag}",
            line.action,
            line.digest.short if line.digest else "",
            str(line.blobs),
            decimal(line.bytes),
        )
        for line in plan.lines
    ]
    text = table(("SITE", "TAG", "WHAT", "DIGEST", "BLOBS", "BYTES"), rows, numbers=("BLOBS", "BYTES"))
    tags, blobs, sizes = Counter[str](), Counter[str](), Counter[str]()
    for line in plan.lines:
        tags[line.site] += 1
        blobs[line.site] += line.blobs
        sizes[line.site] += line.bytes
    sums = [f"to {site}: {_tags(tags[site])}, {blobs[site]} blobs, {decimal(sizes[site])}" for site in sorted(tags)]
    return "\n".join([text, *sums])


def summary(status: SyncStatus) -> str:
    """How far it is, in a line."""
    running = [task for task in status.queue if task.state == "running"]
    parts = [f"site {status.site}:"]
    if status.is_scanning:
        parts.append("looking through the registry,")
    parts.append(f"{_tags(status.waiting)} to do")
    if running:
        done, total = sum(task.bytes_done for task in running), sum(task.bytes_total for task in running)
        parts.append(f"({decimal(done)} of {decimal(total)} under way)")
    if status.failed:
        parts.append(f"and {status.failed} failed")
    behind = [each.site for each in status.destinations if each.is_behind]
    if behind:
        parts.append(f"; not there yet: {', '.join(behind)}")
    return " ".join(parts).replace(" ;", ";")


def status_text(status: SyncStatus) -> str:
    """Everything, in tables."""
    sections = [summary(status)]
    if status.bytes_per_second is not None:
        sections[0] += f"; capped at {decimal(status.bytes_per_second)}/s now"
    if status.rules:
        sections.append(_rules(status))
    if status.follows:
        rows = [(each.site, str(each.sequence), _ago(each.told_at), each.error or "ok") for each in status.follows]
        sections.append(table(("FOLLOWS", "UP TO", "HEARD", "STATE"), rows, numbers=("UP TO",)))
    if status.destinations:
        fed = [
            (
                f"backup {each.site}" if each.is_backup else each.site,
                str(each.sequence),
                str(each.waiting),
                str(each.failed),
                each.error or ("behind" if each.is_behind else "has all"),
            )
            for each in status.destinations
        ]
        sections.append(
            table(("FEEDS", "UP TO", "TO DO", "FAILED", "STATE"), fed, numbers=("UP TO", "TO DO", "FAILED"))
        )
    if status.queue:
        sections.append(_queue(status))
    if status.conflicts:
        rows = [
            (_ago(each.at), f"{each.name}:{each.tag}", _move(each.kept_of, each.kept), _move(each.lost_of, each.lost))
            for each in status.conflicts[:_SHOWN]
        ]
        sections.append(table(("CONFLICT", "TAG", "KEPT", "GIVEN UP"), rows))
    return "\n\n".join(sections)


def problems(status: SyncStatus) -> list[str]:
    """What an operator should mend."""
    found = [f"sync.{rule.number}: {rule.error}" for rule in status.rules if rule.error]
    found += [f"site {each.site} is not followed: {each.error}" for each in status.follows if each.error]
    kinds = {True: "backup", False: "site"}
    found += [
        f"{kinds[each.is_backup]} {each.site} is not fed: {each.error}" for each in status.destinations if each.error
    ]
    found += [
        f"site {each.site} failed to set {_tags(each.failed)}: see `imagedist sync status` there"
        for each in status.destinations
        if each.failed and not each.is_backup
    ]
    found += [f"{_task(task)}: {task.error}" for task in status.queue if task.state == "failed"]
    return found


def _rules(status: SyncStatus) -> str:
    rows = [
        (
            str(rule.number),
            ", ".join(f"{rule.upstream}/{pattern}" for pattern in rule.repositories),
            ", ".join(rule.to),
            rule.schedule or "",
            "" if rule.next_at is None else f"in {duration(max(0.0, rule.next_at - time.time()))}",
            _ago(rule.scanned_at),
            "" if rule.tags is None else str(rule.tags),
            "fails" if rule.error else "ok",
        )
        for rule in status.rules
    ]
    titles = ("RULE", "REPOSITORIES", "TO", "SCHEDULE", "NEXT", "LOOKED", "TAGS", "STATE")
    return table(titles, rows, numbers=("TAGS",))


def _queue(status: SyncStatus) -> str:
    rows = [
        (
            _task(task),
            task.source or "the registry",
            task.state,
            _progress(task),
            str(task.attempts),
            task.error,
        )
        for task in status.queue[:_SHOWN]
    ]
    text = table(("TAG", "FROM", "STATE", "BYTES", "TRIED", "LAST ERROR"), rows, numbers=("BYTES", "TRIED"))
    more = status.waiting + status.failed - len(rows)
    more += sum(each.waiting + each.failed for each in status.destinations if each.is_backup)
    return f"{text}\nand {more} more" if more > 0 else text


def _task(task: TaskStatus) -> str:
    return f"{task.name}:{task.tag}" + (f" to {task.to}" if task.to else "")


def _progress(task: TaskStatus) -> str:
    if task.digest is None:
        return "delete"
    return f"{decimal(task.bytes_done)} of {decimal(task.bytes_total)}" if task.state == "running" else ""


def _move(site: str, digest: str) -> str:
    return f"{site}: {_short(digest)}"


def _short(digest: str) -> str:
    return digest.partition(":")[2][:12] or digest


def _ago(at: float | None) -> str:
    return "never" if at is None else f"{duration(max(0.0, time.time() - at))} ago"


def _tags(count: int) -> str:
    return f"{count} tag{'' if count == 1 else 's'}"
