"""The asyncio shell around the pure core: I/O, clocks, storage, gRPC and HTTP."""
