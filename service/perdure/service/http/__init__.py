"""The HTTP port: thin faces of `api`."""
