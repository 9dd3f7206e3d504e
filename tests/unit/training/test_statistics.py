"""Statistics beside plain counting, and what a column tells beside the definition of mutual information."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from headrace.core.columns import Column, column_of
from headrace.core.schema import DType
from headrace.training.statistics import QUANTILES, column_statistics, mutual_information


def plain_information(pairs: list[tuple[Any, Any]]) -> float:
    """Mutual information in bits, less the bias of Miller and Madow, by counting."""
    n = len(pairs)
    both, left, right = Counter(pairs), Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    bits = sum(c / n * math.log2(c * n / (left[a] * right[b])) for (a, b), c in both.items())
    return max(bits - (len(both) - len(left) - len(right) + 1) / (2 * n * math.log(2)), 0.0)


def of(items: list[Any], dtype: DType, label: list[Any] | None = None, kind: DType = DType.BOOL) -> Any:
    column = column_of(dtype, items)
    return column_statistics({"x": column}, None if label is None else column_of(kind, label))[0]


@pytest.mark.parametrize("dtype", [DType.INT, DType.FLOAT, DType.BOOL, DType.DURATION])
def test_figures_are_those_of_the_values_that_are_there(dtype: DType) -> None:
    rng = random.Random(7)
    make: Any = {DType.FLOAT: lambda: rng.choice((0.5, -2.25, rng.random())), DType.BOOL: lambda: rng.random() < 0.3}
    items = [make.get(dtype, lambda: rng.randrange(-20, 20))() if rng.random() < 0.8 else None for _ in range(500)]
    values = sorted(item for item in items if item is not None)
    found = of(items, dtype)
    assert (found.count, found.nulls, found.distinct) == (len(values), 500 - len(values), len(set(values)))
    assert (found.min, found.max) == (values[0], values[-1])
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert found.std == pytest.approx(np.std(np.array(values, float)))
    assert found.quantiles == {str(q): values[max(math.ceil(q * len(values)), 1) - 1] for q in QUANTILES}
    assert (found.auc, found.information) == (None, None)


def test_columns_without_order_or_values_have_what_can_be_said() -> None:
    text = of(["a", "b", None, "a"], DType.STRING)
    assert (text.count, text.nulls, text.distinct, text.min, text.quantiles) == (3, 1, 2, None, {})
    lists = of([[1.0], None], DType.LIST)
    assert (lists.count, lists.nulls, lists.distinct) == (1, 1, None)
    nothing = of([None, None], DType.FLOAT, [True, False])
    assert (nothing.count, nothing.mean, nothing.auc, nothing.information) == (0, None, None, 0.0)
    assert of([], DType.INT).count == 0


def test_what_a_column_tells_about_the_label() -> None:
    rng = random.Random(11)
    label = [rng.random() < 0.4 for _ in range(2000)]
    few = [
        rng.choice((0, 1, 2)) + 3 * (truth and rng.random() < 0.5) if rng.random() < 0.9 else None for truth in label
    ]
    found = of(few, DType.INT, label)
    assert found.information == pytest.approx(plain_information(list(zip(few, label, strict=True))))
    pairs = [(a, b) for a, b in zip(few, label, strict=True) if a is not None]
    wins = sum((x > y) + (x == y) / 2 for x, t in pairs if t for y, u in pairs if not u)
    assert found.auc == pytest.approx(wins / sum(t for _, t in pairs) / sum(not t for _, t in pairs))
    # A column that is null or not tells as much as the null does.
    gone = [None if truth else 1.0 for truth in label]
    assert of(gone, DType.FLOAT, label).information == pytest.approx(
        plain_information([(truth, truth) for truth in label])
    )
    words = [f"w{a}" for a in few]
    assert of(words, DType.STRING, label).information == pytest.approx(found.information)
    assert of([rng.random() for _ in label], DType.FLOAT, label).information < 0.005
    assert of(few, DType.INT, [float(x) for x in label], DType.FLOAT).auc is None


def test_rows_without_a_label_tell_nothing() -> None:
    label = [True, False, None, True, None, False] * 50
    items = [1, 0, 7, 1, 9, 0] * 50
    found = of(items, DType.INT, label)
    known = [(a, b) for a, b in zip(items, label, strict=True) if b is not None]
    assert found.information == pytest.approx(plain_information(known))
    assert found.auc == 1.0
    assert found.max == 9
    assert mutual_information(np.zeros(0, np.int64), np.zeros(0, np.int64)) == 0.0
    assert isinstance(column_statistics({"x": Column(DType.INT, np.array([1]))})[0].mean, float)
