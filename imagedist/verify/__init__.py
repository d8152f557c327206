"""Two places compared: tags, manifests, blobs. Nothing is changed in either."""
