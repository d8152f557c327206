"""The node's image store: a containers/storage overlay store that podman and CRI-O use in place."""
