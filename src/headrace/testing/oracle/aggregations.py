"""The value of one aggregation over a list of rows, from exact arithmetic."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Any

from headrace.aggregations.registry import aggregation
from headrace.core.schema import DType
from headrace.features.plan import AggregateSpec
from headrace.testing.oracle.rounding import least_first, to_float64, to_int64
from headrace.testing.oracle.sketch import canonical, estimate

_CAP = 1_000


@dataclass(frozen=True, slots=True)
class Row:
    """One event of a window: its time and the values of the group's inputs."""

    time_us: int
    inputs: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Window:
    """What an aggregation sees: values without nulls (1 per row where no column is aggregated) and their times."""

    spec: AggregateSpec
    values: list[Any]
    times: list[int]
    t_us: int
    lo_us: int | None
    hi_us: int

    def param(self, name: str, default: Any = None) -> Any:
        return dict(self.spec.params).get(name, default)


def aggregate(spec: AggregateSpec, rows: Sequence[Row], t_us: int, lo_us: int | None, hi_us: int) -> Any:
    """The value of `spec` over `rows`, which are in the order of events and lie in [lo, hi); None is null.

    `lo_us` None is a window without a lower edge. A null condition is false; null values are skipped.
    """
    kept = [row for row in rows if spec.where is None or row.inputs[spec.where] is True]
    if spec.by is not None:
        return _bucketed(spec, kept, t_us, lo_us, hi_us)
    if spec.dtype is DType.LIST and spec.kind in ("sum", "mean"):
        return _by_position(spec, kept, t_us, lo_us, hi_us)
    if spec.input is None:
        values, times = [1 for _ in kept], [row.time_us for row in kept]
    else:
        present = [row for row in kept if row.inputs[spec.input] is not None]
        values, times = [row.inputs[spec.input] for row in present], [row.time_us for row in present]
    if spec.kind not in _KINDS:
        return aggregation(spec.kind).wanted(values, dict(spec.params))
    return _KINDS[spec.kind](_Window(spec, values, times, t_us, lo_us, hi_us))


def _bucketed(
    spec: AggregateSpec, rows: Sequence[Row], t_us: int, lo_us: int | None, hi_us: int
) -> dict[Any, Any] | None:
    """The value of each bucket that has a row; rows of the null bucket are skipped. Null beyond the cap over the
    lifetime."""
    assert spec.by is not None
    whole = replace(spec, by=None, where=None, dtype=spec.dtype.parts[1])
    buckets: dict[Any, list[Row]] = {}
    for row in rows:
        if row.inputs[spec.by] is not None:
            buckets.setdefault(row.inputs[spec.by], []).append(row)
    if lo_us is None and len(buckets) > _CAP:
        return None
    return {key: aggregate(whole, buckets[key], t_us, lo_us, hi_us) for key in sorted(buckets, key=least_first)}


def _by_position(
    spec: AggregateSpec, rows: Sequence[Row], t_us: int, lo_us: int | None, hi_us: int
) -> list[Any] | None:
    """The value of the numbers at each position of the lists; null if there is none at any."""
    assert spec.input is not None
    one = replace(spec, input=0, where=None, dtype=DType.FLOAT)
    lists = [(row.time_us, row.inputs[spec.input]) for row in rows if row.inputs[spec.input] is not None]
    found = []
    for position in range(max((len(items) for _, items in lists), default=0)):
        numbers = [Row(time_us, (items[position],)) for time_us, items in lists]
        found.append(aggregate(one, numbers, t_us, lo_us, hi_us))
    return None if all(value is None for value in found) else found


def _or_null(value: Callable[[_Window], Any]) -> Callable[[_Window], Any]:
    """Nothing there: null."""
    return lambda window: value(window) if window.values else None


def _total(values: Sequence[Any]) -> Fraction:
    """Their sum, over one common denominator: adding fractions one by one would shorten each of them."""
    parts = [Fraction(value) for value in values]
    below = math.lcm(*(part.denominator for part in parts))
    return Fraction(sum(part.numerator * (below // part.denominator) for part in parts), below)


def _sum(window: _Window) -> Any:
    total = _total(window.values)
    return to_float64(total) if window.spec.dtype is DType.FLOAT else to_int64(int(total))


def _mean(window: _Window) -> float | None:
    return to_float64(_total(window.values) / len(window.values))


def _var(window: _Window) -> float | None:
    """Σ(x − mean)² / (n − ddof); ddof is 1 for a sample (the default), 0 for a population."""
    freedom = len(window.values) - window.param("ddof", 1)
    return None if freedom == 0 else to_float64(_moment(window.values, 2) / Fraction(freedom))


def _std(window: _Window) -> float | None:
    variance = _var(window)
    return None if variance is None else math.sqrt(variance)


def _skewness(window: _Window) -> float | None:
    second, third = _moment(window.values, 2), _moment(window.values, 3)
    if second == 0:
        return None
    square = to_float64(len(window.values) * third**2 / second**3)
    if square is None:
        return None
    root = math.sqrt(square)
    return (-root if third < 0 else root) + 0.0  # never −0.0


def _moment(values: Sequence[Any], power: int) -> Fraction:
    """Σ(x − mean)^power."""
    mean = _total(values) / len(values)
    return _total([(Fraction(value) - mean) ** power for value in values])


def _share(window: _Window) -> float | None:
    return to_float64(Fraction(window.values.count(True), len(window.values)))


def _distinct(window: _Window) -> Counter[Any] | None:
    """How often each value occurs; None beyond the cap."""
    counts = Counter(window.values)
    return counts if len(counts) <= window.param("cap", _CAP) else None


def _n_unique(window: _Window) -> int | None:
    counts = _distinct(window)
    return None if counts is None else len(counts)


def _histogram(window: _Window) -> dict[Any, int] | None:
    counts = _distinct(window)
    return None if counts is None else {value: counts[value] for value in sorted(counts, key=least_first)}


def _by_frequency(window: _Window) -> list[Any] | None:
    """Distinct values, the most frequent first, the least first among equally frequent ones."""
    counts = _distinct(window)
    if counts is None:
        return None
    return sorted(counts, key=lambda value: (-counts[value], least_first(value)))


def _top_k(window: _Window) -> list[Any] | None:
    ranked = _by_frequency(window)
    return None if ranked is None else ranked[: window.param("k")]


def _most_frequent(window: _Window) -> Any:
    ranked = _by_frequency(window)
    return ranked[0] if ranked else None


def _quantile(window: _Window) -> float:
    """The midpoint of the bucket of the ⌈q·n⌉-th value; q is the decimal number as it was written."""
    rank = max(1, math.ceil(Fraction(str(window.param("q"))) * len(window.values)))
    return _bucket_midpoint(float(sorted(window.values)[rank - 1]))


def _bucket_midpoint(value: float) -> float:
    """Values of one sign, exponent and first 7 of 52 mantissa bits share a bucket; zero is alone."""
    if value == 0:
        return 0.0
    (bits,) = struct.unpack("<q", struct.pack("<d", value))
    (midpoint,) = struct.unpack("<d", struct.pack("<q", (bits >> 45 << 45) + (1 << 44)))
    return float(midpoint)


def _rate(window: _Window) -> float | None:
    """Count or sum per unit of time over hi − lo."""
    assert window.lo_us is not None, "a rate needs a window"
    if not window.values and window.spec.input is not None:
        return None
    return to_float64(_total(window.values) * window.param("unit_us") / (window.hi_us - window.lo_us))


def _weights(window: _Window) -> list[Fraction]:
    """The weight of each event by its steps from hi: j(e) − j(hi), j(x) = ⌊1024·x / half-life⌋."""
    halflife = window.param("halflife_us")
    now = 1024 * window.hi_us // halflife
    return [_weight(1024 * time // halflife - now) for time in window.times]


@lru_cache(1 << 16)
def _weight(steps: int) -> Fraction:
    """2^(steps / 1024); the 1,024 steps of one halving are float64."""
    halvings, step = divmod(steps, 1024)
    with localcontext() as context:
        context.prec = 60
        return Fraction(float(Decimal(2) ** (Decimal(step) / 1024))) * Fraction(2) ** halvings


def _decayed(window: _Window) -> Fraction:
    return _total([w * Fraction(v) for w, v in zip(_weights(window), window.values, strict=True)])


_KINDS: dict[str, Callable[[_Window], Any]] = {
    "count": lambda window: len(window.values),
    "sum": _or_null(_sum),
    "mean": _or_null(_mean),
    "min": _or_null(lambda window: min(window.values, key=least_first)),
    "max": _or_null(lambda window: max(window.values, key=least_first)),
    "var": _or_null(_var),
    "std": _or_null(_std),
    "skewness": _or_null(_skewness),
    "first": _or_null(lambda window: window.values[0]),
    "last": _or_null(lambda window: window.values[-1]),
    "first_n": lambda window: window.values[: window.param("n")],
    "last_n": lambda window: window.values[-window.param("n") :],
    "n_unique": _n_unique,
    "approx_n_unique": lambda window: estimate(canonical(value) for value in window.values),
    "histogram": _histogram,
    "top_k": _top_k,
    "most_frequent": _most_frequent,
    "quantile": _or_null(_quantile),
    "time_since_last": _or_null(lambda window: window.t_us - window.times[-1]),
    "time_since_first": _or_null(lambda window: window.t_us - window.times[0]),
    "rate": _rate,
    "decayed_sum": _or_null(lambda window: to_float64(_decayed(window))),
    "decayed_count": lambda window: to_float64(_total(_weights(window))),
    "decayed_mean": _or_null(lambda window: to_float64(_decayed(window) / _total(_weights(window)))),
    "any": _or_null(lambda window: True in window.values),
    "all": _or_null(lambda window: False not in window.values),
    "share": _or_null(_share),
}
