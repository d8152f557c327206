"""The swarm session on libtorrent; the only file that imports it. It runs in threads of its own, reports by alerts."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, cast

import libtorrent as lt

from imagedist.beat import seconds_to_beat
from imagedist.config import Address
from imagedist.errors import InputError, SourceError, StorageError, listen_error, storage_error
from imagedist.oci.digest import Digest
from imagedist.swarm import refusals
from imagedist.swarm import torrent as rules
from imagedist.swarm.bulk import unmark_listener
from imagedist.swarm.libtorrent_alerts import Alerts
from imagedist.swarm.libtorrent_transfer import LibtorrentTransfer
from imagedist.swarm.settings import PEER_ID_PREFIXES, Role, session_settings

_LOG = logging.getLogger(__name__)

_STATUS_SECONDS = 0.5
"""How often rates and upload counters are asked for."""

_CLOSE_SECONDS = 1.5
"""How long ``close`` waits for libtorrent to let go of its torrents before it is stopped anyway."""

_LISTEN_SECONDS = 10.0

_ALERTS = (
    lt.alert_category.error
    | lt.alert_category.status
    | lt.alert_category.storage
    | lt.alert_category.piece_progress
    | lt.alert_category.block_progress
    | lt.alert_category.peer  # bans and broken rules; connect: hang-ups, each with its reason
    | lt.alert_category.connect
    | lt.alert_category.ip_block
    | lt.alert_category.tracker  # whether one has answered
)

# Neither auto_managed (3 active downloads, 5 active seeds) nor any peer source but trackers and our own list.
_FLAGS = (
    lt.torrent_flags.update_subscribe
    | lt.torrent_flags.disable_dht
    | lt.torrent_flags.disable_lsd
    | lt.torrent_flags.disable_pex
    | lt.torrent_flags.apply_ip_filter
)

_QUERY_NAME = 1 << 6  # torrent_handle::query_name, which the Python binding does not name
_QUERY_UPDATES = _QUERY_NAME | int(lt.status_flags_t.query_distributed_copies)
_QUERY_PIECES = _QUERY_NAME | int(lt.status_flags_t.query_pieces)

_MAX_COMPLAINTS = 100
_SEEDER_PREFIX = PEER_ID_PREFIXES["seeder"].encode()


class LibtorrentSession:
    """All torrents of one process. Made by ``await LibtorrentSession.open(…)``.

    Bytes by source: libtorrent says of which peer a block was asked and, unless the torrent is finished first, of
    which it came. The last word counts, so only blocks asked of two peers at the very end may go to the wrong one.
    A peer is the site's seeder when its peer ID says so: good enough to count by, and nothing else rests on it.
    """

    def __init__(self, address: Address, session: Any) -> None:
        self.address = address
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._transfers: dict[str, LibtorrentTransfer] = {}
        self._adding: dict[str, asyncio.Task[LibtorrentTransfer]] = {}
        self._removing: dict[str, asyncio.Future[None]] = {}
        self._listening: asyncio.Future[int] = self._loop.create_future()
        self._status_timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._complaints: set[tuple[str, str]] = set()
        handlers = {
            lt.block_downloading_alert: self._on_block,
            lt.block_finished_alert: self._on_block,
            lt.piece_finished_alert: self._on_piece_finished,
            lt.hash_failed_alert: self._on_hash_failed,
            lt.read_piece_alert: self._on_read_piece,
            lt.add_torrent_alert: self._on_added,
            lt.torrent_checked_alert: self._on_checked,
            lt.torrent_finished_alert: self._on_finished,
            lt.cache_flushed_alert: self._on_flushed,
            lt.torrent_removed_alert: self._on_removed,
            lt.torrent_error_alert: self._on_torrent_error,
            lt.file_error_alert: self._on_torrent_error,
            lt.state_update_alert: self._on_state_update,
            lt.alerts_dropped_alert: self._on_alerts_dropped,
            lt.listen_succeeded_alert: self._on_listen_succeeded,
            lt.listen_failed_alert: self._on_listen_failed,
            lt.tracker_error_alert: self._on_tracker_error,
            lt.tracker_reply_alert: self._on_tracker_answer,
            lt.peer_ban_alert: refusals.on_ban,
            lt.peer_blocked_alert: refusals.on_blocked,
            lt.peer_error_alert: refusals.on_broken_rule,
            lt.peer_disconnected_alert: refusals.on_hang_up,
            lt.invalid_request_alert: refusals.on_broken_rule,
        }
        self._alerts = Alerts(session, handlers, self._is_awaited)
        self._ask_for_status()

    def __repr__(self) -> str:
        return f"<LibtorrentSession {self.address} with {len(self._transfers)} torrents>"

    @classmethod
    async def open(
        cls,
        address: Address,
        *,
        role: Role = "node",
        upload: int | None = None,
        download: int | None = None,
        networks: Sequence[IPv4Network | IPv6Network] = (),
    ) -> LibtorrentSession:
        """Starts a session and waits until it listens.

        Args:
            address: an IP address and a port; port 0 takes a free one, which ``session.address`` then names.
            role: what peers see in our peer ID; the site's seeder says so.
            upload, download: bytes per second over all torrents; None: no limit.
            networks: from which peers may come, and where they are dialled, web seeds included. Empty: everywhere.

        Raises:
            InputError: the host is not an IP address, or the address cannot be listened on.
        """
        try:
            settings = session_settings(address, role, upload, download)
        except ValueError as error:
            raise InputError(f"cannot listen for BitTorrent on {address}: expected an IP address") from error
        # No extensions (flags 0): peer exchange and metadata transfer have no place in a private torrent of ours.
        session = await asyncio.to_thread(lambda: lt.session(cast(Any, {**settings, "alert_mask": int(_ALERTS)}), 0))
        session.set_peer_class_filter(_one_class_for_all(session))
        if networks:
            session.set_ip_filter(_nobody_but(networks))
        opened = cls(address, session)
        try:
            async with asyncio.timeout(_LISTEN_SECONDS):
                port = await opened._listening
        except BaseException as error:
            await opened.close()
            if isinstance(error, TimeoutError):
                raise InputError(f"cannot listen for BitTorrent on {address}: no answer from libtorrent") from error
            raise
        opened.address = Address(address.host, port)
        if role == "node":
            await asyncio.to_thread(unmark_listener, port)
        return opened

    async def add(
        self,
        torrent: bytes,
        directory: Path,
        *,
        trackers: Sequence[str] = (),
        seeding: bool = False,
        peers: Sequence[tuple[str, int]] = (),
    ) -> LibtorrentTransfer:
        facts = await asyncio.to_thread(rules.parse, torrent)
        for host, _ in peers:
            try:
                ipaddress.ip_address(host)
            except ValueError as error:
                raise InputError(f"cannot add peer {host!r}: expected an IP address") from error
        name = facts.digest.hex
        while name in self._removing:
            await asyncio.shield(self._removing[name])
        if self._is_closed:
            raise SourceError(f"cannot add {facts.digest}: the swarm session is closed")
        if name not in self._transfers and name not in self._adding:
            task = asyncio.create_task(self._add(facts, torrent, directory, tuple(trackers), seeding, tuple(peers)))
            task.add_done_callback(lambda done: self._added(name, done))
            self._adding[name] = task
        if name in self._adding:
            # Shielded: another caller may wait for the same torrent, and libtorrent cannot be interrupted half-way.
            return await asyncio.shield(self._adding[name])
        transfer = self._transfers[name]
        if trackers and not transfer.handle.trackers():
            transfer.handle.replace_trackers([{"url": url, "tier": 0} for url in trackers])
        return transfer

    def get(self, digest: Digest) -> LibtorrentTransfer | None:
        return self._transfers.get(digest.hex) if digest.algorithm == "sha256" else None

    def transfers(self) -> Sequence[LibtorrentTransfer]:
        return tuple(self._transfers.values())

    async def remove(self, digest: Digest) -> None:
        name = digest.hex
        if name in self._adding:
            await asyncio.wait([self._adding[name]])
        if transfer := self._transfers.pop(name, None):
            self._removing[name] = self._loop.create_future()
            transfer.fail(SourceError(f"the transfer of {digest} was removed"))
            self._session.remove_torrent(transfer.handle)
            self._alerts.hurry()
        if name in self._removing:
            await asyncio.shield(self._removing[name])

    def set_limits(self, upload: int | None, download: int | None, connections: int | None = None) -> None:
        settings = {"upload_rate_limit": upload or 0, "download_rate_limit": download or 0}
        if connections is not None:
            settings["connections_limit"] = connections
        self._session.apply_settings(settings)

    async def close(self) -> None:
        """Ends every wait with ``SourceError``, tells the trackers, and returns when no thread is left."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._adding:
            await asyncio.wait(self._adding.values())
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(*(self.remove(transfer.digest) for transfer in self.transfers()))
        except TimeoutError:
            _LOG.warning("libtorrent did not let go of its torrents in %s s; stopping it", _CLOSE_SECONDS)
        for waiter in self._removing.values():
            waiter.set_result(None)
        self._removing.clear()
        self._listening.cancel()
        if self._status_timer:
            self._status_timer.cancel()
        self._alerts.stop()
        # The last reference goes in a thread, because the destructor joins libtorrent's threads.
        session, self._session = self._session, None
        holder = [session]
        del session
        await asyncio.to_thread(holder.clear)
        self._alerts.close()

    async def _add(
        self,
        facts: rules.TorrentFacts,
        torrent: bytes,
        directory: Path,
        trackers: tuple[str, ...],
        seeding: bool,
        peers: tuple[tuple[str, int], ...],
    ) -> LibtorrentTransfer:
        transfer = LibtorrentTransfer(facts, self._alerts.hurry)

        def add() -> Any:
            _check_file(facts, directory, seeding)
            parameters = lt.load_torrent_buffer(torrent)
            parameters.save_path = str(directory)
            parameters.flags = _FLAGS | (lt.torrent_flags.seed_mode if seeding else 0)
            parameters.trackers = list(trackers)
            parameters.tracker_tiers = [0] * len(trackers)
            parameters.peers = list(peers)
            return self._session.add_torrent(parameters)

        self._transfers[facts.digest.hex] = transfer  # its first alerts may come before add_torrent returns
        try:
            transfer.handle = await asyncio.to_thread(add)
        except BaseException as error:
            del self._transfers[facts.digest.hex]
            if isinstance(error, RuntimeError):
                raise StorageError(f"cannot add the torrent of {facts.digest}: {error}") from error
            raise
        if seeding:
            transfer.complete()
        return transfer

    def _added(self, name: str, task: asyncio.Task[LibtorrentTransfer]) -> None:
        del self._adding[name]
        if not task.cancelled():
            task.exception()  # retrieved: the caller may have gone

    def _is_awaited(self) -> bool:
        return bool(self._removing) or any(transfer.is_awaited for transfer in self._transfers.values())

    def _ask_for_status(self) -> None:
        if any(transfer.handle for transfer in self._transfers.values()):
            self._session.post_torrent_updates(_QUERY_UPDATES)
            for transfer in self._transfers.values():
                if transfer.handle and transfer.flush.is_due(self._loop.time()):
                    self._flush(transfer)
        pause_seconds = seconds_to_beat(self._loop.time(), _STATUS_SECONDS)
        self._status_timer = self._loop.call_later(pause_seconds, self._ask_for_status)

    def _on_block(self, alert: Any) -> None:
        if transfer := self._transfers.get(alert.torrent_name):
            transfer.arrival.add_block(alert.piece_index, alert.block_index, _source(alert.pid.to_bytes()))

    def _on_piece_finished(self, alert: Any) -> None:
        if transfer := self._transfers.get(alert.torrent_name):
            transfer.piece_was_checked(alert.piece_index, is_right=True)
            transfer.arrival.add_piece(alert.piece_index, found=not transfer.is_checked.is_set())
            transfer.flush.note_piece(self._loop.time())

    def _on_hash_failed(self, alert: Any) -> None:
        if transfer := self._transfers.get(alert.torrent_name):
            transfer.piece_was_checked(alert.piece_index, is_right=False)

    def _on_read_piece(self, alert: Any) -> None:
        if transfer := self._transfers.get(alert.torrent_name):
            code = alert.error.value()
            error = OSError(code, alert.error.message()) if code else None
            transfer.piece_was_read(alert.piece, alert.buffer, error)

    def _on_added(self, alert: Any) -> None:
        transfer = self._transfers.get(alert.torrent_name)
        if transfer and not alert.error.value():
            transfer.handle = alert.handle

    def _on_checked(self, alert: Any) -> None:
        transfer = self._transfers.get(alert.torrent_name)
        if transfer:
            transfer.is_checked.set()
            if not transfer.arrival.is_complete:
                transfer.handle.post_status(_QUERY_PIECES)

    def _on_finished(self, alert: Any) -> None:
        if transfer := self._transfers.get(alert.torrent_name):
            self._flush_all(transfer)

    def _flush_all(self, transfer: LibtorrentTransfer) -> None:
        """All pieces are verified, but libtorrent may still hold some in memory."""
        if not transfer.flush.is_last:
            transfer.flush.is_last = True
            self._flush(transfer)

    def _flush(self, transfer: LibtorrentTransfer) -> None:
        transfer.flush.begin(self._loop.time())
        transfer.handle.flush_cache()

    def _on_flushed(self, alert: Any) -> None:
        transfer = self._transfers.get(alert.torrent_name)
        # A removed torrent is flushed as well; its alert may come after the same blob was added anew.
        if transfer and alert.handle == transfer.handle and transfer.flush.end():
            transfer.complete()

    def _on_removed(self, alert: Any) -> None:
        if waiter := self._removing.pop(alert.torrent_name, None):
            waiter.set_result(None)

    def _on_torrent_error(self, alert: Any) -> None:
        transfer = self._transfers.get(alert.torrent_name)
        if transfer and not transfer.arrival.failure:  # a full disk fails every block, and each has its alert
            error = OSError(alert.error.value(), alert.error.message(), str(alert.filename()))
            failure = storage_error(f"keep the pieces of {transfer.digest}", error)
            _LOG.warning("%s", failure)
            transfer.fail(failure)
            alert.handle.pause()

    def _on_state_update(self, alert: Any) -> None:
        for status in alert.status:
            transfer = self._transfers.get(status.name)
            if not transfer:
                continue
            transfer.latest = status
            transfer.prefer_wanted()
            for index, is_present in enumerate(status.pieces):
                if is_present:
                    transfer.arrival.add_piece(index)
            if transfer.arrival.present_bytes == transfer.size_bytes:
                self._flush_all(transfer)

    def _on_alerts_dropped(self, alert: Any) -> None:
        """The event loop was too busy: ask what was missed. Bytes by source are then a lower bound."""
        _LOG.warning("libtorrent dropped alerts: the event loop was blocked for too long")
        for transfer in self._transfers.values():
            if transfer.handle and not transfer.arrival.is_complete:
                transfer.handle.post_status(_QUERY_PIECES)

    def _on_listen_succeeded(self, alert: Any) -> None:
        if alert.socket_type == lt.socket_type_t.tcp and not self._listening.done():
            self._listening.set_result(alert.port)

    def _on_listen_failed(self, alert: Any) -> None:
        if alert.socket_type != lt.socket_type_t.tcp:
            return  # UDP: neither uTP nor UDP trackers are used
        failure = listen_error(self.address, OSError(alert.error.value(), alert.error.message()))
        if self._listening.done():
            _LOG.warning("%s", failure)
        else:
            self._listening.set_exception(failure)

    def _on_tracker_answer(self, alert: Any) -> None:
        self._introduced(alert)
        if self._complaints:
            self._complaints = {said for said in self._complaints if said[0] != alert.url}

    def _introduced(self, alert: Any) -> None:
        if transfer := self._transfers.get(alert.torrent_name):
            transfer.is_introduced = True

    def _on_tracker_error(self, alert: Any) -> None:
        """Said once until that tracker answers again: hundreds of torrents fail alike."""
        self._introduced(alert)
        said = (alert.url, alert.error.message() or alert.error_message())
        if alert.times_in_row == 1 and said not in self._complaints and len(self._complaints) < _MAX_COMPLAINTS:
            self._complaints.add(said)
            _LOG.warning("announce to %s failed: %s", *said)


def _source(peer_id: bytes) -> str:
    """Who sent a block. Peers have an ID like ``-XXnnnn-`` (BEP 20); for a web seed libtorrent rolls random bytes."""
    if peer_id.startswith(_SEEDER_PREFIX):
        return "seeder"
    return "peer" if peer_id[:1] == peer_id[7:8] == b"-" else "webseed"


def _one_class_for_all(session: Any) -> Any:
    """Puts every peer into the global class.

    Otherwise peers on loopback and private addresses are in the local one, where no limit and no unchoke slot
    applies: a cap of 1 MiB/s let 15 MB/s through.
    """
    peer_classes = lt.ip_filter()
    every_class = 1 << session.global_peer_class_id
    peer_classes.add_rule("0.0.0.0", "255.255.255.255", every_class)
    peer_classes.add_rule("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", every_class)
    return peer_classes


def _nobody_but(networks: Sequence[IPv4Network | IPv6Network]) -> Any:
    """Strangers are hung up on before they have said anything."""
    peers, blocked = lt.ip_filter(), 1
    peers.add_rule("0.0.0.0", "255.255.255.255", blocked)
    peers.add_rule("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", blocked)
    for network in networks:
        peers.add_rule(str(network[0]), str(network[-1]), 0)
    return peers


def _check_file(facts: rules.TorrentFacts, directory: Path, seeding: bool) -> None:
    """libtorrent believes a seed's file without looking; and it would make a missing directory as it likes."""
    path = directory / facts.digest.hex
    try:
        if seeding:
            size_bytes = path.stat().st_size
            if size_bytes != facts.size_bytes:
                raise StorageError(f"cannot seed {path}: it has {size_bytes} bytes, its torrent {facts.size_bytes}")
        elif not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    except OSError as error:
        raise storage_error(f"add the torrent of {facts.digest}", error) from error
