"""Small feature blocks for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.core.columns import column_of
from headrace.core.schema import DType
from headrace.retrieval.rows import FeatureBlock


def block_of(**columns: tuple[DType, Sequence[Any]]) -> FeatureBlock:
    """A block of named columns given as (type, Python values with None for null)."""
    rows = len(next(iter(columns.values()))[1])
    words = np.zeros((rows, len(columns)), np.int64)
    valid = np.zeros((rows, len(columns)), np.bool_)
    objects = {}
    for index, (name, (dtype, items)) in enumerate(columns.items()):
        column = column_of(dtype, list(items))
        valid[:, index] = column.mask()
        if dtype in (DType.STRING, DType.LIST):
            objects[name] = column
            continue
        values = column.values.view(np.int64) if dtype is DType.FLOAT else column.values.astype(np.int64)
        words[:, index] = np.where(valid[:, index], values, 0)
    return FeatureBlock(tuple(columns), tuple(dtype for dtype, _ in columns.values()), words, valid, objects)
