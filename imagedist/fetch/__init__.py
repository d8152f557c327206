"""Where a node's bytes come from: a registry, a site's proxy, or the agent's cache and swarm."""
