"""Shared by all rooms of the service: settings, limits, clocks, graph sources, errors of the store."""
