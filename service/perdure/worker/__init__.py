"""Runs user code: in Ray workers, or in threads of this process."""
