"""Kubernetes' container runtime interface beyond images: pods and their containers."""
