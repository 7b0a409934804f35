"""The pure core: what a run does next, and nothing of how."""
