"""The gRPC surface: thin servicers, one interceptor."""
