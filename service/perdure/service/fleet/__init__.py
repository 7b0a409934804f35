"""Several engines over one database: membership, ownership of runs, and mail between engines."""
