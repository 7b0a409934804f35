"""Metadata in memory, for tests and throw-away engines; also the reference of the conformance suite."""
