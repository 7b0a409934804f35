"""Where runs and large values are kept: ports, and one file for each implementation."""
