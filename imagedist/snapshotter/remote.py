"""Answers containerd's "unpack this layer" with a layer that the node has, or that its agent gets.

With ``containerd.io/snapshot.ref`` a Prepare says which chain the snapshot is to become. If that is in the store, or
comes to be there in time, it is committed under that name, and containerd, told that it exists, neither fetches nor
unpacks the layer (containerd, docs/remote-snapshotter.md). In every other case, whatever the reason: containerd does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Literal

from imagedist.errors import ImagedistError, InputError
from imagedist.metrics import SNAPSHOT_LAYERS
from imagedist.oci.digest import Digest
from imagedist.oci.reference import Reference
from imagedist.overlay.lending import Lending
from imagedist.snapshotter.pulls import Pulls
from imagedist.snapshotter.snapshot import Kind
from imagedist.snapshotter.snapshots import Snapshots

_LOG = logging.getLogger(__name__)

REF_LABEL = "containerd.io/snapshot.ref"
IMAGE_LABEL = "containerd.io/snapshot/cri.image-ref"
MANIFEST_LABEL = "containerd.io/snapshot/cri.manifest-digest"
LAYER_LABEL = "containerd.io/snapshot/cri.layer-digest"
"""Set by containerd's CRI unless ``disable_snapshot_annotations``, and by its transfer service (pkg/snapshotters)."""

_WAITING = 16
"""Calls that wait at a time; the threads left answer container starts meanwhile."""

Outcome = Literal["had", "pulled", "left"]
"""Of a layer, as ``metrics.SNAPSHOT_LAYERS`` counts it."""


class Remote:
    """Layers from elsewhere than containerd.

    Args:
        pulls: None: only what is in the store already.
    """

    def __init__(self, snapshots: Snapshots, lending: Lending, pulls: Pulls | None) -> None:
        self._snapshots = snapshots
        self._lending = lending
        self._pulls = pulls
        self._waiting = threading.Semaphore(_WAITING)

    def provide(self, parent: str, labels: Mapping[str, str], is_wanted: Callable[[], bool]) -> bool:
        """Has the snapshot that the labels mean committed. Never raises: False leaves it to containerd.

        Args:
            is_wanted: whether whoever asked still waits.
        """
        ref = labels.get(REF_LABEL)
        if not ref:
            return False
        outcome: Outcome = "left"
        try:
            outcome = self._provide(ref, parent, labels, is_wanted)
        except ImagedistError as error:
            _LOG.warning("containerd unpacks %s itself: %s", ref[:80], error)
        except Exception:
            _LOG.exception("containerd unpacks %s itself", ref[:80])
        SNAPSHOT_LAYERS.labels(outcome).inc()
        return outcome != "left"

    def _provide(self, ref: str, parent: str, labels: Mapping[str, str], is_wanted: Callable[[], bool]) -> Outcome:
        try:
            chain_id = Digest.parse(ref)
        except InputError:
            return "left"
        below = self._snapshots.records.get(parent) if parent else None
        if parent and (below is None or below.kind is not Kind.COMMITTED or not below.layer_id):
            return "left"  # what containerd unpacked itself goes on like that: we cannot know what it stands upon
        parent_id = below.layer_id if below is not None else ""

        def is_there() -> bool:
            return self._adopted(chain_id, parent, parent_id, labels)

        layer = Digest.parse(labels[LAYER_LABEL]) if LAYER_LABEL in labels else None
        outcome: Outcome = "had" if is_there() else "left"
        if outcome == "left" and self._pulled(is_there, labels, layer, is_wanted):
            outcome = "pulled"
        if outcome != "left" and layer is not None and self._pulls is not None:
            self._pulls.serve(layer)
        return outcome

    def _adopted(self, chain_id: Digest, parent: str, parent_id: str, labels: Mapping[str, str]) -> bool:
        name = str(chain_id)
        if self._snapshots.records.get(name) is None:
            layer = self._lending.layer(chain_id)
            if layer is None:
                return False
            if layer.parent_id != parent_id:
                raise InputError(f"chain {chain_id} does not stand upon {parent!r}")
            if self._snapshots.adopt(name, parent, labels, layer):
                return True
        known = self._snapshots.records.get(name)  # of another namespace, or by another call this moment
        if known is None or not known.layer_id:
            return False
        # By these two containerd looks for it (core/metadata/snapshot.go); not found, the pull would fail.
        return known.parent == parent and known.labels.get(REF_LABEL) == name

    def _pulled(
        self,
        is_there: Callable[[], bool],
        labels: Mapping[str, str],
        layer: Digest | None,
        is_wanted: Callable[[], bool],
    ) -> bool:
        if self._pulls is None or IMAGE_LABEL not in labels or MANIFEST_LABEL not in labels:
            return False
        reference = Reference.parse(labels[IMAGE_LABEL]).at(Digest.parse(labels[MANIFEST_LABEL]))
        if not self._waiting.acquire(blocking=False):
            _LOG.warning("%s is left to containerd: %d calls wait already", reference, _WAITING)
            return False
        try:
            pull = self._pulls.join(reference)
            return pull is not None and pull.wait_for(is_there, layer, is_wanted)
        finally:
            self._waiting.release()
