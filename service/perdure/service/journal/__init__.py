"""The group commit, and the loops that never end."""
