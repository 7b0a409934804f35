"""The shared metadata store: many engines over one PostgreSQL database."""
