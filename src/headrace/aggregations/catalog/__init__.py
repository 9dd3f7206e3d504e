"""The aggregations, one file each; `registry.py` finds them here."""
