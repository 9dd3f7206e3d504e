"""The features of a group as rows of integers: what the passes that read them, and those that fold rows, go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from headrace.aggregations import codes, nested
from headrace.aggregations import growing as gr
from headrace.aggregations import lanes as ln
from headrace.aggregations.aggregation import Composed
from headrace.aggregations.kept import KEPT_WORDS
from headrace.aggregations.limits import DISTINCT_CAP
from headrace.aggregations.registry import aggregation
from headrace.core.columns import BoolArray, IntArray
from headrace.core.errors import PlanError
from headrace.core.schema import DType


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


@dataclass(frozen=True, slots=True)
class PlainAggregate:
    """What a plan says of a feature, where there is no plan: of a part of what is composed, or of one by itself."""

    name: str
    kind: str
    input: int | None
    where: int | None
    window_us: int | None
    hop_us: int
    delay_us: int
    dtype: DType
    params: tuple[tuple[str, Any], ...]
    by: int | None = None


@dataclass(frozen=True, slots=True)
class PlainInput:
    """The type of what is aggregated, and the length of its lists."""

    dtype: DType
    size: int | None = None


@dataclass(frozen=True, slots=True)
class PlainGroup:
    """A group of such features."""

    inputs: tuple[Input, ...]
    aggregates: tuple[Aggregate, ...]
    resolution_us: int


def taken_apart(group: Group) -> tuple[Group, dict[str, tuple[str, ...]]]:
    """The group with the parts of composed aggregations in their places, and by feature the names of its parts."""
    parts: dict[str, tuple[str, ...]] = {}
    found: list[Aggregate] = []
    for a in group.aggregates:
        kind = aggregation(a.kind)
        if not isinstance(kind, Composed):
            found.append(a)
            continue
        read = None if a.input is None else group.inputs[a.input].dtype
        parts[a.name] = tuple(element_name(a.name, index) for index in range(len(kind.parts)))
        for name, part in zip(parts[a.name], kind.parts, strict=True):
            dtype = aggregation(part.kind).gives_for(read)
            found.append(
                PlainAggregate(name, part.kind, a.input, a.where, a.window_us, a.hop_us, a.delay_us, dtype, part.params)
            )
    return (PlainGroup(group.inputs, tuple(found), group.resolution_us) if parts else group), parts


def element_name(feature: str, element: int) -> str:
    """The name that an element of a feature's list, or a part of what is made of others, has among the slots."""
    return f"{feature}[{element}]"


def is_text_extreme(group: Group, spec: Aggregate) -> bool:
    """True for the least or greatest text of the lifetime, of which the record keeps the row."""
    text = spec.input is not None and group.inputs[spec.input].dtype is DType.STRING
    return text and aggregation(spec.kind).extreme and spec.window_us is None and spec.by is None


def is_nested(spec: Aggregate) -> bool:
    """True for a list or a map, which has no slot."""
    return aggregation(spec.kind).is_nested or spec.by is not None


def nested_table(
    group: Group, specs: list[Aggregate], first_column: list[int], windows: list[tuple[int, int, int]]
) -> IntArray:
    """The table of lists and maps; its columns are those that `nested.py` names."""
    table = []
    for a in specs:
        params = dict(a.params)
        # Buckets are limited over the lifetime, where nothing else would limit what a record holds.
        cap = gr.UNCAPPED if a.by is not None and a.window_us is not None else int(params.get("cap", DISTINCT_CAP))
        row = [_nested_code(a), windows.index(window_of(a)), param_of(a), cap]
        row += _read(group, a.input, first_column)
        row.append(-1 if a.where is None else first_column[a.where])
        row += _read(group, a.by, first_column)
        table.append(row)
    return np.array(table, np.int64).reshape(-1, nested.NESTED_WORDS)


def is_kept_in_tiles(spec: Aggregate) -> bool:
    """True for what can be read from some of the rows of a tile, however many there are."""
    kind = aggregation(spec.kind)
    if spec.by is not None:
        return kind.extreme
    return kind.tile_code is not None or kind.kept_rows(dict(spec.params)) > 0


def kept_table(group: Group, first_column: list[int], *, windowed: bool = False) -> IntArray:
    """The table of lifetime features (or `windowed` ones) that need some of the rows that are counted elsewhere one by
    one; its columns are those that `kept.py` names."""
    table = []
    for a in group.aggregates:
        kind = aggregation(a.kind)
        ends = kind.kept_rows(dict(a.params))
        code: int | None
        if (a.window_us is not None) is not windowed:
            continue
        if windowed and a.by is None and kind.tile_code is not None:
            # One value more than may be counted tells that there are too many.
            code, size = kind.tile_code, param_of(a) + 1
        elif ends:
            code, size = kind.list_code, ends
        elif a.by is not None and kind.extreme:
            # One bucket more than may be counted tells that there are too many; in windows there may be any number.
            code, size = kind.by_code, gr.UNCAPPED if windowed else DISTINCT_CAP + 1
        elif is_text_extreme(group, a):
            code, size = kind.code, 1
        else:
            continue
        where = -1 if a.where is None else first_column[a.where]
        read, by = _read(group, a.input, first_column), _read(group, a.by, first_column)
        table.append([code, size, *read, where, *by])
    return np.array(table, np.int64).reshape(-1, KEPT_WORDS)


def growing_table(
    group: Group, first_column: list[int], windows: list[tuple[int, int, int]], *, tiled: bool
) -> tuple[IntArray, IntArray, dict[str, tuple[int, int, int, int, int]]]:
    """The tables of the lifetime's growing states and of those that tiles hold, the same ones first, and by name what
    is read from them: the first columns of `grown_reads.read_growing`.

    Unless `tiled`, tiles hold none, and nothing else than the lifetime is read from states.
    """
    states: dict[tuple[int, ...], int] = {}
    caps: dict[int, int] = {}
    of_lifetime: list[tuple[int, ...]] = []
    reads: dict[str, tuple[int, int, int, int, int]] = {}
    for a in sorted(group.aggregates, key=lambda a: a.window_us is not None):
        form, lifetime = _form(a), a.window_us is None
        if form is None or not (lifetime or (tiled and not is_kept_in_tiles(a))):
            continue
        params = dict(a.params)
        where = -1 if a.where is None else first_column[a.where]
        counted = form == codes.COUNTS and a.by is not None
        read = _read(group, a.by if counted else a.input, first_column)
        by = _read(group, None if counted else a.by, first_column)
        state = states.setdefault((form, *read, where, *by), len(states))
        cap = int(params.get("cap", DISTINCT_CAP)) if form in (codes.COUNTS, codes.SUMMED) else gr.UNCAPPED
        if a.by is not None and not lifetime:
            # As in `nested_table`: only over the lifetime nothing else limits the number of buckets.
            cap = gr.UNCAPPED
        caps[state] = max(cap, caps.get(state, 0))
        code = _nested_code(a) if is_nested(a) else aggregation(a.kind).code
        assert code is not None
        reads[a.name] = (state, windows.index(window_of(a)), code, param_of(a), cap)
        if lifetime:
            of_lifetime = [(form, caps[at], *read) for at, (form, *read) in enumerate(states)]
    table = [(form, caps[state], *read) for (form, *read), state in states.items()] if tiled else []
    return _states(of_lifetime), _states(table), reads


def _states(table: list[tuple[int, ...]]) -> IntArray:
    return np.array(table, np.int64).reshape(-1, gr.STATE_WORDS)


def is_in_states(spec: Aggregate) -> bool:
    """True for what can be read from growing states of tiles."""
    return _form(spec) is not None


def _form(spec: Aggregate) -> int | None:
    """The form of the growing state that a feature needs over the lifetime or in tiles; None if it needs none."""
    return aggregation(spec.kind).growing_form(by=spec.by is not None, of_column=spec.input is not None)


def _nested_code(spec: Aggregate) -> int:
    """The code by which a list or a map is written."""
    kind = aggregation(spec.kind)
    code = kind.list_code if spec.by is None else kind.by_code
    if code is None:
        raise PlanError(f'feature "{spec.name}": hr.{spec.kind} takes no by=')
    return code


def text_keys(growing: IntArray, texts: tuple[int, ...]) -> BoolArray:
    """Per growing state whether its keys are texts."""
    by = growing[:, gr.G_FORM] == codes.SUMMED
    keyed = by | (growing[:, gr.G_FORM] == codes.COUNTS)
    found: BoolArray = keyed & np.isin(np.where(by, growing[:, gr.G_BY], growing[:, gr.G_COLUMN]), texts)
    return found


def sorted_reads(reads: Sequence[tuple[int, ...]]) -> IntArray:
    """The table of features for `grown_reads.read_growing`, in its order."""
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


def slot_of(spec: Aggregate) -> tuple[int, int]:
    """The code of a feature with a slot, and what its lane has to keep track of."""
    kind, of_column = aggregation(spec.kind), spec.input is not None
    code = kind.slot_code(of_column=of_column)
    assert code is not None, f"hr.{spec.kind} has no slot"
    return code, kind.slot_ops(of_column=of_column)


def param_of(spec: Aggregate) -> int:
    """The feature's number for the compiled passes."""
    return aggregation(spec.kind).param(dict(spec.params))


def kind_of(dtype: DType) -> int:
    """How a lane reads an input of this type."""
    if dtype in (DType.FLOAT, DType.BOOL, DType.LIST):
        return ln.FLOAT
    return ln.NULLABLE_INT if dtype is DType.INT else ln.STAMP
