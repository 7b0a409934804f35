"""The gRPC surface: thin faces of `api`, behind one chain of interceptors."""
