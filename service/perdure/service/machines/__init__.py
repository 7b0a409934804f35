"""Kinds of runs: each makes and restores machines from what the store has of a run."""
