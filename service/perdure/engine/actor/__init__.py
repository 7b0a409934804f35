"""The machine of virtual actors."""
