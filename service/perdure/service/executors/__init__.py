"""Where attempts run: the port, and one file for each way."""
