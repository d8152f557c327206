"""The /v2 surface that the proxy and the agent both serve (design.md §4.1)."""
