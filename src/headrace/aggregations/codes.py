"""What the compiled passes and the classes of aggregations call each other by: plain numbers, and nothing heavy.

A code says which finish writes a feature. Each pass has a range of its own, so that it tells its features from those of
others by one comparison.
"""

from __future__ import annotations

# Finished by the walk over lanes (`kernel.py`).
(COUNT, COUNT_VALID, SUM, MEAN, MIN, MAX, FIRST, LAST, SHARE, ANY, ALL, VAR, STD, SINCE_LAST, SINCE_FIRST) = range(15)
# Read from the rows of their window (`window_rows.py`); a rate is a sum over a span, so it adds up tiles as well.
RATE, QUANTILE, SKEWNESS, N_UNIQUE, APPROX_N_UNIQUE = range(15, 20)
DECAYED_SUM, DECAYED_COUNT, DECAYED_MEAN = range(20, 23)
MOST_FREQUENT = 23
# Lists and maps, which have no slot (`nested.py`).
FIRST_N, LAST_N, HISTOGRAM, TOP_K, BY_COUNT, BY_SUM, BY_MEAN, BY_MIN, BY_MAX = range(32, 41)
GROWN = 48
"""Instead of the code of a feature that is read from a growing state (`growing.py`); other passes leave it out."""

# What a lane has to keep track of (`lanes.py`).
SUMS, LEAST, EDGES, SQUARES, TRUES, MOST = 1, 2, 4, 8, 16, 32
# Forms of the states of the lifetime whose size follows their data (`growing.py`).
COUNTS, BUCKETS, SUMMED, REGISTERED, MOMENTS = range(5)

QUANTILE_STEPS = 1_000_000_000
"""A quantile is a whole number of these parts, so that its rank is exact."""
