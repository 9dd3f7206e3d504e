"""Split rows by time: what a model is tested on lies after what it was fitted on, with a gap between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.core.columns import BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Boolean masks [n] that do not overlap; a row in no mask lies in an embargo or has no time in the range.

    Attributes:
        train, validation, test: rows of each part.
        validation_from_us, test_from_us: where the later parts begin.
    """

    train: BoolArray
    validation: BoolArray
    test: BoolArray
    validation_from_us: int
    test_from_us: int


def split_by_time(
    times_us: IntArray, *, validation_from_us: int, test_from_us: int | None = None, embargo_us: int = 0
) -> TimeSplit:
    """Cut at given request times.

    Rows less than `embargo_us` before a cut are left out of the earlier part: their truth, or the windows they share
    with later rows, reach over it. `test_from_us` None makes no test part.

    Raises ValueError if the cuts are out of order or the embargo is negative.
    """
    test_cut = int(np.iinfo(np.int64).max) if test_from_us is None else test_from_us
    if test_cut < validation_from_us or embargo_us < 0:
        raise ValueError(
            f"validation from {validation_from_us} and test from {test_cut} with an embargo of {embargo_us} us: "
            "the test part must not begin before validation, and an embargo is not negative"
        )
    last = test_cut - embargo_us if test_from_us is not None else test_cut
    train = times_us < validation_from_us - embargo_us
    validation = (times_us >= validation_from_us) & (times_us < last)
    test = times_us >= test_cut if test_from_us is not None else np.zeros(len(times_us), np.bool_)
    return TimeSplit(train, validation, test, validation_from_us, test_cut)


def split_by_share(
    times_us: IntArray, *, validation: float = 0.15, test: float = 0.0, embargo_us: int = 0
) -> TimeSplit:
    """Cut where the latest `test` share of rows begins, and the `validation` share before it.

    Rows of one time are never parted. Raises ValueError if there are no rows or the shares leave nothing to train on.
    """
    if not len(times_us) or not 0 <= validation < 1 or not 0 <= test < 1 or validation + test >= 1:
        raise ValueError(
            f"{len(times_us)} rows cannot be split with {validation} for validation and {test} for test; "
            "rows are needed, and shares of 0 or more that leave some for training"
        )
    ordered = np.sort(times_us)
    rows = len(ordered)
    after_last = int(ordered[-1]) + 1

    def cut(share: float) -> int:
        index = rows - round(share * rows)
        return int(ordered[index]) if index < rows else after_last

    test_from_us = cut(test) if test else None
    return split_by_time(
        times_us, validation_from_us=cut(validation + test), test_from_us=test_from_us, embargo_us=embargo_us
    )
