"""Runs user code: in Ray workers, in processes beside the engine, or in threads of the engine."""
