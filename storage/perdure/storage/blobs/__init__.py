"""Blob stores: files, S3, a cache on this machine's disk, memory."""
