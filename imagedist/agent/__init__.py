"""One per node: the mirror endpoint, a swarm session, a verified cache, and pulls for the command line."""
