"""Functions that workers have under names."""
