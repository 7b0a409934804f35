"""The group commit, and background loops."""
