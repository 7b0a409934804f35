"""What every call passes before it reaches its servicer: a chain of small parts, put together in `app`."""
