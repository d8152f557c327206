"""Names of private directories (``imagedist.locking``) whose owners have died."""

from __future__ import annotations

DEAD, GONE = "0123456789abcdef" * 2, "fedcba9876543210" * 2
