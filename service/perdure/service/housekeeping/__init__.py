"""Removes old runs and unused blobs."""
