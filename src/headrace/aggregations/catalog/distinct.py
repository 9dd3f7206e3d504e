"""Number of different values, counted or estimated."""

from __future__ import annotations

from headrace.aggregations import codes
from headrace.aggregations.aggregation import Aggregation, Capped
from headrace.core.schema import SCALARS, DType


class NUnique(Capped):
    """How many different values; 0 without any."""

    name = "n_unique"
    gives = DType.INT
    code = codes.N_UNIQUE
    tile_code = codes.N_UNIQUE
    form = codes.COUNTS


class ApproxNUnique(Aggregation):
    """HyperLogLog of 4,096 registers over a pinned hash; 0 without values."""

    name = "approx_n_unique"
    takes = SCALARS
    gives = DType.INT
    code = codes.APPROX_N_UNIQUE
    tile_code = codes.APPROX_N_UNIQUE
    form = codes.REGISTERED
    hashes_texts = True
