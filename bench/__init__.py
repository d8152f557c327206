"""Measurements on your machine, against the runtimes it has."""
