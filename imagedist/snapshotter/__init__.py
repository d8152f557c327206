"""containerd's proxy snapshotter over the node's own layers: one unpacked copy for every runtime (design.md §4.4)."""
