"""Limits that definitions and kernels share."""

from __future__ import annotations

DISTINCT_CAP = 1_000
"""More different values than this in a window are null, unless a feature names another cap (design 4.11)."""
LOOKBACK = 64
"""A decayed aggregation looks this many half-lives back, unless its window is shorter (design 4.10)."""
