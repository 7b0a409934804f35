"""The runs in memory: applying, acting, restoring, waking."""
