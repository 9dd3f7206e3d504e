"""Monitoring: drift against the training profile, accuracy against the truth. Pure functions over arrays."""
