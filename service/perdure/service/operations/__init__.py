"""What clients ask for: runs, their ends, events, batches and questions."""
