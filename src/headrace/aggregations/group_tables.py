"""The features of a group as rows of integers: what the passes that read them, and those that fold rows, go by."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Protocol

import numpy as np

from headrace.aggregations import decayed, nested
from headrace.aggregations import growing as gr
from headrace.aggregations import kernel as k
from headrace.aggregations import lanes as ln
from headrace.aggregations import window_rows as wr
from headrace.aggregations.kept import KEPT_WORDS
from headrace.aggregations.limits import DISTINCT_CAP
from headrace.core.columns import BoolArray, IntArray
from headrace.core.schema import DType

# The code of a feature with a slot and what its lane keeps track of; the codes of lists and maps, and of buckets.
CODES: dict[str, tuple[int, int]] = {
    "count": (k.COUNT, 0),
    "sum": (k.SUM, ln.SUMS),
    "mean": (k.MEAN, ln.SUMS),
    "min": (k.MIN, ln.LEAST),
    "max": (k.MAX, ln.MOST),
    "first": (k.FIRST, ln.EDGES),
    "last": (k.LAST, ln.EDGES),
    "share": (k.SHARE, ln.TRUES),
    "any": (k.ANY, ln.TRUES),
    "all": (k.ALL, ln.TRUES),
    "var": (k.VAR, ln.SUMS | ln.SQUARES),
    "std": (k.STD, ln.SUMS | ln.SQUARES),
    "time_since_last": (k.SINCE_LAST, ln.EDGES),
    "time_since_first": (k.SINCE_FIRST, ln.EDGES),
    "rate": (wr.RATE, ln.SUMS),
    "quantile": (wr.QUANTILE, 0),
    "skewness": (wr.SKEWNESS, 0),
    "n_unique": (wr.N_UNIQUE, 0),
    "approx_n_unique": (wr.APPROX_N_UNIQUE, 0),
    "most_frequent": (wr.MOST_FREQUENT, 0),
    "decayed_sum": (decayed.DECAYED_SUM, 0),
    "decayed_count": (decayed.DECAYED_COUNT, 0),
    "decayed_mean": (decayed.DECAYED_MEAN, 0),
}
NESTED_CODES = {
    "first_n": nested.FIRST_N,
    "last_n": nested.LAST_N,
    "histogram": nested.HISTOGRAM,
    "top_k": nested.TOP_K,
}
BY_CODES = {
    "count": nested.BY_COUNT,
    "sum": nested.BY_SUM,
    "mean": nested.BY_MEAN,
    "min": nested.BY_MIN,
    "max": nested.BY_MAX,
}
VALUES = (k.MIN, k.MAX, k.FIRST, k.LAST, wr.MOST_FREQUENT)
"""Codes of features that are one of the values."""
_FORMS = {
    **dict.fromkeys(("n_unique", "most_frequent", "histogram", "top_k"), gr.COUNTS),
    "quantile": gr.BUCKETS,
    "skewness": gr.MOMENTS,
    "approx_n_unique": gr.REGISTERED,
}
"""The growing states that aggregations without buckets need over the lifetime."""
BY_ORDER = ("first", "last", "first_n", "last_n")
"""Aggregations whose value is decided by ties of event time."""


class Input(Protocol):
    """Of `features.plan.InputSpec`, likewise."""

    @property
    def dtype(self) -> DType: ...
    @property
    def size(self) -> int | None: ...


class Aggregate(Protocol):
    """What the layout needs to know of `features.plan.AggregateSpec` (the plan lies above this package)."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def input(self) -> int | None: ...
    @property
    def where(self) -> int | None: ...
    @property
    def window_us(self) -> int | None: ...
    @property
    def hop_us(self) -> int: ...
    @property
    def delay_us(self) -> int: ...
    @property
    def dtype(self) -> DType: ...
    @property
    def params(self) -> tuple[tuple[str, Any], ...]: ...
    @property
    def by(self) -> int | None: ...


class Group(Protocol):
    @property
    def inputs(self) -> tuple[Input, ...]: ...
    @property
    def aggregates(self) -> tuple[Aggregate, ...]: ...
    @property
    def resolution_us(self) -> int: ...


def is_text_extreme(group: Group, spec: Aggregate) -> bool:
    """True for the least or greatest text of the lifetime, of which the record keeps the row."""
    text = spec.input is not None and group.inputs[spec.input].dtype is DType.STRING
    return text and spec.kind in ("min", "max") and spec.window_us is None and spec.by is None


def is_nested(spec: Aggregate) -> bool:
    """True for a list or a map, which has no slot."""
    return spec.kind in NESTED_CODES or spec.by is not None


def nested_table(
    group: Group, specs: list[Aggregate], first_column: list[int], windows: list[tuple[int, int, int]]
) -> IntArray:
    """The table of lists and maps; its columns are those that `nested.py` names."""
    table = []
    for a in specs:
        params = dict(a.params)
        code = NESTED_CODES[a.kind] if a.by is None else BY_CODES[a.kind]
        size = int(params.get("n", params.get("k", 0)))
        # Buckets are limited over the lifetime, where nothing else would limit what a record holds.
        cap = gr.UNCAPPED if a.by is not None and a.window_us is not None else int(params.get("cap", DISTINCT_CAP))
        row = [code, windows.index(window_of(a)), size, cap]
        row += _read(group, a.input, first_column)
        row.append(-1 if a.where is None else first_column[a.where])
        row += _read(group, a.by, first_column)
        table.append(row)
    return np.array(table, np.int64).reshape(-1, nested.NESTED_WORDS)


def is_kept_in_tiles(spec: Aggregate) -> bool:
    """True for what can be read from some of the rows of a tile, however many there are."""
    if spec.by is not None:
        return spec.kind in ("min", "max")
    return spec.kind in ("first_n", "last_n", "n_unique", "approx_n_unique")


def kept_table(group: Group, first_column: list[int], *, windowed: bool = False) -> IntArray:
    """The table of lifetime features (or `windowed` ones) that need some of the rows that are counted elsewhere one by
    one; its columns are those that `kept.py` names."""
    table = []
    for a in group.aggregates:
        least = a.kind == "min"
        if (a.window_us is not None) is not windowed:
            continue
        if windowed and a.kind in ("n_unique", "approx_n_unique"):
            # One value more than may be counted tells that there are too many.
            code, size = CODES[a.kind][0], param_of(a) + 1
        elif a.kind in ("first_n", "last_n"):
            code, size = NESTED_CODES[a.kind], int(dict(a.params)["n"])
        elif a.by is not None and a.kind in ("min", "max"):
            # One bucket more than may be counted tells that there are too many; in windows there may be any number.
            code, size = BY_CODES[a.kind], gr.UNCAPPED if windowed else DISTINCT_CAP + 1
        elif is_text_extreme(group, a):
            code, size = k.MIN if least else k.MAX, 1
        else:
            continue
        where = -1 if a.where is None else first_column[a.where]
        read, by = _read(group, a.input, first_column), _read(group, a.by, first_column)
        table.append([code, size, *read, where, *by])
    return np.array(table, np.int64).reshape(-1, KEPT_WORDS)


def growing_table(
    group: Group, first_column: list[int], windows: list[tuple[int, int, int]]
) -> tuple[IntArray, dict[str, tuple[int, int, int, int, int]]]:
    """The table of growing states, and by name what is read from them: the first columns of `growing.read_growing`."""
    states: dict[tuple[int, ...], int] = {}
    caps: dict[int, int] = {}
    reads: dict[str, tuple[int, int, int, int, int]] = {}
    for a in group.aggregates:
        form = _form(a)
        if a.window_us is not None or form is None:
            continue
        params = dict(a.params)
        where = -1 if a.where is None else first_column[a.where]
        counted = form == gr.COUNTS and a.by is not None
        read = _read(group, a.by if counted else a.input, first_column)
        by = _read(group, None if counted else a.by, first_column)
        state = states.setdefault((form, *read, where, *by), len(states))
        cap = int(params.get("cap", DISTINCT_CAP)) if form in (gr.COUNTS, gr.SUMMED) else gr.UNCAPPED
        caps[state] = max(cap, caps.get(state, 0))
        code = BY_CODES[a.kind] if a.by is not None else NESTED_CODES.get(a.kind) or CODES[a.kind][0]
        param = int(params["k"]) if a.kind == "top_k" else param_of(a)
        reads[a.name] = (state, windows.index(window_of(a)), code, param, cap)
    table = [(form, caps[state], *read) for (form, *read), state in states.items()]
    return np.array(table, np.int64).reshape(-1, gr.STATE_WORDS), reads


def _form(spec: Aggregate) -> int | None:
    """The form of the growing state that a feature of the lifetime needs; None if it needs none."""
    if spec.by is not None:
        if spec.kind == "count" and spec.input is None:
            return gr.COUNTS
        return gr.SUMMED if spec.kind in ("count", "sum", "mean") else None
    return _FORMS.get(spec.kind)


def text_keys(growing: IntArray, texts: tuple[int, ...]) -> BoolArray:
    """Per growing state whether its keys are texts."""
    by = growing[:, gr.G_FORM] == gr.SUMMED
    keyed = by | (growing[:, gr.G_FORM] == gr.COUNTS)
    found: BoolArray = keyed & np.isin(np.where(by, growing[:, gr.G_BY], growing[:, gr.G_COLUMN]), texts)
    return found


def sorted_reads(reads: Sequence[tuple[int, ...]]) -> IntArray:
    """The table of features for `growing.read_growing`, in its order."""
    return np.array(sorted(reads), np.int64).reshape(-1, gr.READ_WORDS)


def _read(group: Group, source: int | None, first_column: list[int]) -> tuple[int, int, int]:
    """How an input is read: its kind, its column, and the column of its validity (-1: none)."""
    if source is None:
        return ln.ROWS, 0, -1
    kind, column = kind_of(group.inputs[source].dtype), first_column[source]
    return kind, column, column + 1 if kind == ln.NULLABLE_INT else -1


def window_of(spec: Aggregate) -> tuple[int, int, int]:
    """Length (-1: lifetime), hop and delay. A lifetime has no lower edge, so its hop tells nothing apart."""
    return (-1, 1, spec.delay_us) if spec.window_us is None else (spec.window_us, spec.hop_us, spec.delay_us)


def param_of(spec: Aggregate) -> int:
    """The feature's number for the kernel: degrees of freedom, a cap, µs of a unit or half-life, or QUANTILE_STEPS."""
    params = dict(spec.params)
    if spec.kind == "rate":
        return int(params["unit_us"])
    if spec.kind == "quantile":
        # The decimal as it was written, not the float64 nearest to it.
        return int(Decimal(str(params["q"])) * wr.QUANTILE_STEPS)
    if spec.kind in ("n_unique", "most_frequent"):
        return int(params.get("cap", DISTINCT_CAP))
    if "halflife_us" in params:
        return int(params["halflife_us"])
    return int(params.get("ddof", 1))


def kind_of(dtype: DType) -> int:
    """How a lane reads an input of this type."""
    if dtype in (DType.FLOAT, DType.BOOL, DType.LIST):
        return ln.FLOAT
    return ln.NULLABLE_INT if dtype is DType.INT else ln.STAMP
