"""Kubernetes' side of a container runtime: the few calls of its interface (CRI) that kubelet pulls images with."""
