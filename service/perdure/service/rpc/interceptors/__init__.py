"""The interceptors of every call: a chain of small parts, put together in `app`."""
