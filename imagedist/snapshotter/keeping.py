"""Images that the store has only because containerd asked for them: they go when containerd needs them no more."""

from __future__ import annotations

import logging
from collections.abc import Callable

from imagedist.oci.reference import Reference
from imagedist.overlay.lending import Lending
from imagedist.snapshotter.pulls import Pulls
from imagedist.snapshotter.records import Records

_LOG = logging.getLogger(__name__)


class Keeping:
    """Who else wants such an image shows in the store: pulled or mounted later, it was used since, and stays."""

    def __init__(self, records: Records, lending: Lending) -> None:
        self._records = records
        self._lending = lending

    def begin(self, reference: Reference) -> Callable[[str], None]:
        """The agent is about to pull an image for containerd. What the store has already is not ours to remove."""
        was_there = reference.digest is not None and self._lending.has_manifest(reference.digest)

        def done(image_id: str) -> None:
            if not was_there or image_id in self._records.pulled_images():
                self._records.note_pulled(image_id, self._lending.last_use(image_id))

        return done

    def collect(self, pulls: Pulls) -> bool:
        """Removes what only containerd needed, and no longer does; and what nobody needs.

        Returns:
            Whether nothing is left for later: images whose layers containerd is still asking for.

        Raises:
            StorageError: the disk failed; what was removed by then is gone.
        """
        recent, pulled = pulls.image_ids(), self._records.pulled_images()
        for image_id, last_use in pulled.items():
            if image_id not in recent and self._lending.forgo(image_id, last_use):
                self._records.forget_pulled(image_id)
        for one in self._lending.collect():
            _LOG.info("removed %s %s (%d bytes)", one.kind, one.name, one.size_bytes)
        return recent.isdisjoint(pulled)
