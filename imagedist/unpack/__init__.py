"""Compressed bytes to a layer directory: decode, read the tar, plan, extract. No network, no asyncio."""
