"""Shared by all rooms of the service: settings, limits, clocks, threads for large runs, errors of the store."""
