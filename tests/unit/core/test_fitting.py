"""Columns of others come into fields exactly, or are told by row."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.fitting import fit_column
from headrace.core.schema import DType, Field


@given(st.lists(st.tuples(st.integers(-(10**37), 10**37), st.integers(0, 18)), min_size=1))
def test_decimals_come_as_the_nearest_floats(given: list[tuple[int, int]]) -> None:
    numbers = [Decimal(whole // 10**18).scaleb(-scale) for whole, scale in given]
    column = pa.array(numbers, pa.decimal128(38, 18))
    fitted = fit_column(column, Field("x", DType.FLOAT), "here")
    assert not fitted.misfits
    assert fitted.column.values.tobytes() == np.array([float(number) for number in numbers]).tobytes()
