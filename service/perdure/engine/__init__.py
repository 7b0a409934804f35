"""The pure core: decides what a run does next. It performs no I/O."""
