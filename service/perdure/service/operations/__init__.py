"""The operations of clients: submit, resume, cancel and delete runs, send events, batches, queries."""
