"""Backups: registries that keep what rules send there, and from which a site's store is rebuilt."""
