"""The asyncio shell around the core: what it does not know, this package does."""
