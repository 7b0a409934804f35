"""Reads by subject. A class is a port of the store."""
