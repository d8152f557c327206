"""What commands print: sizes, tables, the first and the last lines of a pull."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from imagedist.plain import one_line, plain
from imagedist.progress import STAGES, Event
from imagedist.swarm.session import TransferStatus

if TYPE_CHECKING:
    from imagedist.nodes import NodeStatus
    from imagedist.site_store import PinStatus, ScrubStatus, StoreStatus

_PLAIN_INTERVAL_SECONDS = 5.0
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def decimal(size_bytes: float) -> str:
    """``52.1 MB``, in steps of 1000."""
    for unit in _UNITS:
        if size_bytes < 999.95 or unit == _UNITS[-1]:
            break
        size_bytes /= 1000
    return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()) -> str:
    """Columns of text, as wide as they need to be; those named in ``numbers`` end at the right.

    Cells may be anybody's text: what a terminal would obey is shown.
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(titles, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if title in numbers else cell.ljust(width)
            for title, cell, width in zip(titles, row, widths, strict=True)
        ).rstrip()
        for row in (titles, *rows)
    ]
    return "\n".join(lines)


def swarm_table(transfers: Sequence[TransferStatus]) -> str:
    """A node's torrents, one per line."""
    titles = ("BLOB", "SIZE", "HERE", "PEERS", "DOWN/s", "UP/s", "FROM PEERS", "FROM SEEDER", "BY WEB SEED", "SENT")
    rows = [
        (
            row.digest.short,
            decimal(row.size_bytes),
            "all" if row.is_complete else f"{row.present_bytes / max(row.size_bytes, 1):.0%}",
            str(row.peers),
            decimal(row.download_rate),
            decimal(row.upload_rate),
            *(decimal(row.received_bytes.get(source, 0)) for source in ("peer", "seeder", "webseed")),
            decimal(row.uploaded_bytes),
        )
        for row in transfers
    ]
    return table(titles, rows, numbers=titles[1:])


_SUMS_LINES = 3


def swarm_text(
    transfers: Sequence[TransferStatus],
    received_bytes: Mapping[str, int],
    room_lines: int | None = None,
    given_bytes: int = 0,
    *,
    is_quiet: bool = False,
) -> str:
    """A node's torrents, those on their way first, then the busiest; below them their sums.

    Args:
        received_bytes: by source, of all that the node got: the P2P share is what came from peers in it.
        room_lines: how many lines there are for all; what finds no room is counted. None: as many as it takes.
    """
    rows = sorted(transfers, key=lambda row: (row.is_complete, -row.download_rate - row.upload_rate, row.digest.hex))
    shown = rows
    if room_lines is not None and len(rows) + 1 + _SUMS_LINES > room_lines:
        shown = rows[: max(room_lines - 2 - _SUMS_LINES, 0)]
    lines = [swarm_table(shown)]
    if len(shown) < len(rows):
        lines.append(f"and {len(rows) - len(shown)} more")
    total_bytes = sum(received_bytes.values()) - received_bytes.get("disk", 0)
    share = f"{received_bytes.get('peer', 0) / total_bytes:.0%}" if total_bytes else "-"
    sources = ", ".join(f"{decimal(count)} from {source}" for source, count in sorted(received_bytes.items()) if count)
    return "\n".join(
        [
            *lines,
            "",
            f"{len(rows)} torrents, {sum(row.is_complete for row in rows)} complete; "
            f"{sum(row.peers for row in rows)} connections to peers; "
            f"{decimal(sum(row.download_rate for row in rows))}/s down, "
            f"{decimal(sum(row.upload_rate for row in rows))}/s up" + ("; quiet mode" if is_quiet else ""),
            f"P2P share {share} since the agent's start"
            + (f": {sources}" if sources else "")
            + (f"; {decimal(given_bytes)} given to peers" if given_bytes else ""),
        ]
    )


def pin_table(pins: Sequence[PinStatus]) -> str:
    """A site's pins, one per line."""
    titles = ("IMAGE OR BLOB", "OWNER", "HERE", "MISSING", "SINCE", "REASON")
    rows = [
        (row.name, row.owner, decimal(row.bytes), str(row.missing), _day(row.created_at), row.reason) for row in pins
    ]
    return table(titles, rows, numbers=("HERE", "MISSING"))


def store_lines(status: StoreStatus) -> str:
    """A site's store, an aspect per line."""
    quota = f" of {decimal(status.quota_bytes)}" if status.quota_bytes is not None else ", no quota"
    folders = [(name, str(folder.files), decimal(folder.bytes)) for name, folder in status.folders.items()]
    missing = f", {status.missing_blobs} not here" if status.missing_blobs else ""
    return "\n".join(
        [
            f"store    {status.root}",
            f"used     {decimal(status.used_bytes)}{quota}; {decimal(status.arriving_bytes)} of it on their way",
            f"disk     {decimal(status.free_bytes)} free, {decimal(status.headroom_bytes)} are kept free",
            f"pinned   {decimal(status.pinned_bytes)} by {status.pins} pins{missing}",
            f"evicted  {status.evicted_files} files, {decimal(status.evicted_bytes)} since the store was made",
            f"scrub    {scrub_line(status.scrub)}",
            "",
            table(("FOLDER", "FILES", "SIZE"), folders, numbers=("FILES", "SIZE")),
        ]
    )


def scrub_line(status: ScrubStatus) -> str:
    checked = (
        f"{status.checked_blobs} blobs ({decimal(status.checked_bytes)}) checked, {status.rotten_blobs} had rotted"
    )
    if status.is_running:
        return f"under way: {checked}"
    if status.is_wanted:
        return "about to begin"
    due = f"; next {_day(status.next_at)}" if status.next_at is not None else ""
    return f"{checked}, done {_day(status.finished_at)}{due}" if status.finished_at is not None else f"never yet{due}"


def node_table(nodes: Sequence[NodeStatus]) -> str:
    """A site's nodes, one per line, and their number."""
    titles = ("NODE", "STATE", "SEEN", "ADDRESS", "VERSION", "LABELS", "BLOBS", "IMAGES", "CACHE FREE", "STORE FREE")
    rows = [
        (
            node.id,
            node_state(node),
            f"{duration(node.seen_seconds_ago)} ago",
            node.address or "-",
            node.version or "-",
            ",".join(f"{name}={value}" for name, value in sorted(node.labels.items())) or "-",
            str(node.cached_blobs),
            str(node.unpacked_images),
            *(decimal(node.disks[name].free_bytes) if name in node.disks else "-" for name in ("blobs", "storage")),
        )
        for node in nodes
    ]
    gone, paused = sum(node.is_gone for node in nodes), sum(node.is_paused for node in nodes)
    counted = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"
    some = ", ".join(f"{count} {what}" for count, what in ((gone, "gone"), (paused, "paused")) if count)
    return f"{table(titles, rows, numbers=titles[6:])}\n{counted}{f', {some}' if some else ''}"


def node_state(node: NodeStatus) -> str:
    return " ".join(what for is_so, what in ((node.is_gone, "gone"), (node.is_paused, "paused")) if is_so) or "alive"


def duration(seconds: float) -> str:
    """``42 s``, ``3 min``, ``5 h``, ``2 d``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def opening(event: Event) -> str:
    """The first line of a pull: what is here, what is missing."""
    layers = event.layers or ()
    missing = [layer for layer in layers if not layer.is_present]
    size = decimal(sum(layer.size_bytes for layer in missing))
    return f"{event.reference}: {len(layers)} layers, {len(layers) - len(missing)} here, {len(missing)} to get ({size})"


def summary(event: Event, merged: int = 0) -> str:
    """The last lines of a pull: how much in what time, and how busy each stage was.

    Args:
        merged: how many layers were.
    """
    sources = event.received_bytes or {}
    by = ", ".join(f"{decimal(count)} from {source}" for source, count in sorted(sources.items()) if count)
    fetched, decoded = event.bytes or 0, event.decoded_bytes or 0
    text = f"{event.reference}  {(event.image or '')[:12]}  {decimal(fetched)} in {event.seconds or 0.0:.2f} s"
    lines = [f"{text} ({by})" if by else text]
    if event.stages and merged:
        lines.append("  busy, all layers together:")
        amounts = {"fetch": fetched, "merge": None}
        for stage in STAGES:
            lines.append(_stage(stage, event.stages.get(stage, 0.0), amounts.get(stage, decoded), merged))
    return "\n".join(lines)


def _stage(name: str, seconds: float, size_bytes: int | None, merged: int) -> str:
    if size_bytes is None:
        return f"  {name:<8}{f'{merged} layers':>11}{seconds:>9.2f} s"
    rate = f"{decimal(size_bytes / seconds)}/s" if seconds > 0 else ""
    return f"  {name:<8}{decimal(size_bytes):>11}{seconds:>9.2f} s{rate:>15}".rstrip()


class Lines:
    """A line for what matters, and one every few seconds while bytes flow."""

    def __init__(self) -> None:
        self._total_bytes = 0
        self._fetched_bytes = 0
        self._merged = 0
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        if event.event == "resolved":
            self._total_bytes = sum(layer.size_bytes for layer in event.layers or () if not layer.is_present)
            print(opening(event), flush=True)
        elif event.event == "fetched":
            self._fetched_bytes += event.bytes or 0
            if time.monotonic() - self._last >= _PLAIN_INTERVAL_SECONDS:
                self._last = time.monotonic()
                print(f"fetched {decimal(self._fetched_bytes)} of {decimal(self._total_bytes)}", flush=True)
        elif event.event == "merged":
            self._merged += 1
        elif event.event in ("note", "waiting"):
            print(plain(event.message or ""), flush=True)
        elif event.event == "done":
            print(summary(event, self._merged), flush=True)
