"""Where runs and large values are kept: ports and their implementations."""
