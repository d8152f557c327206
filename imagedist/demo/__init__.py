"""The demonstration: a real image of this machine's files, a registry to serve it, a site and four nodes."""
