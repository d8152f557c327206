"""imagedist: an image reference becomes a root filesystem on thousands of nodes."""

__version__ = "0.1.0"
