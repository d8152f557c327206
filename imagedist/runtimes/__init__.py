"""The container runtimes of this machine: what each gets from us, its configuration, and handing one an image."""

from imagedist.runtimes.handover import Runtime, hand_over
from imagedist.runtimes.report import RuntimeReport
from imagedist.runtimes.settings import Settings
from imagedist.runtimes.survey import survey

__all__ = ["Runtime", "RuntimeReport", "Settings", "hand_over", "survey"]
