"""The embedded metadata store: one engine, one file."""
