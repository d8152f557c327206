"""The site's proxy: the only writer of its blob store; pulls from upstream once, serves nodes and plain clients."""
