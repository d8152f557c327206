"""Content-addressed blobs: partial, then verified, then committed. Quota and pins."""
