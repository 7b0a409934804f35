"""The operations of clients on runs, actors, events and batches, and their queries."""
