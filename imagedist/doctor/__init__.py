"""What is wrong with this node, as its runtimes meet it, and what to do about it: a file for each kind of check."""

from imagedist.doctor.examination import examine
from imagedist.doctor.finding import Finding

__all__ = ["Finding", "examine"]
