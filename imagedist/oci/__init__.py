"""The field's words: reference, digest, descriptor, index, manifest, image config, chain ID."""
