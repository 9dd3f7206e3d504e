"""How a windowed group is laid out for the kernel: columns, lanes, windows and features as tables of integers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np

from headrace.aggregations import codes, nested
from headrace.aggregations import growing as gr
from headrace.aggregations import kernel as k
from headrace.aggregations import lanes as ln
from headrace.aggregations.exact import WORK_WORDS
from headrace.aggregations.group_tables import (
    Aggregate,
    Group,
    element_name,
    growing_table,
    is_in_states,
    is_kept_in_tiles,
    is_nested,
    is_text_extreme,
    kept_table,
    kind_of,
    nested_table,
    param_of,
    slot_of,
    sorted_reads,
    taken_apart,
    text_keys,
    window_of,
)
from headrace.aggregations.registry import aggregation
from headrace.aggregations.tile_states import KEY_BYTES, MOMENT_WORDS, STATE_HEAD
from headrace.aggregations.tiles import ALWAYS, LEVEL_AGE
from headrace.core.columns import BoolArray, IntArray
from headrace.core.schema import DType
from headrace.core.time import NULL_US, US_PER_DAY

VALIDITY = -1
"""Instead of the number of an element: the words that say which rows of an input have a value."""


@dataclass(frozen=True)
class GroupLayout:
    """Tables for `kernel.read_group`, and what the writers of records have to keep.

    Attributes:
        columns: per physical column the input that it holds, and which element of its lists (0 of what is no list),
            or VALIDITY.
        features: per feature its lane, window, code, parameter and whether it is a bool; those that the kernel reads
            by (lane, window), as `pointers` says, then those of `window_rows.py`.
        names: feature names in slot order, with `dtypes` beside them; elements of lists have a slot each.
        lists: per feature that is a list of a fixed length the places of its elements in `names`.
        composed: per feature that is made of others the names of its parts, which are in `names`.
        reach_us: how far below a read time an event can matter to a finite window.
        base_words: additive words of the lifetime in each record (0: none).
        ordered: ties of event time decide values, so records keep ids and offsets.
        lifetime: some feature has no window.
        rows: some feature is read from the rows of its window, one by one.
        kept: the table of `kept.keep_rows`: lifetime features that need old rows one by one.
        tile_kept: the same of features with windows, which need some of the rows in a tile.
        growing: the states of the lifetime whose size follows their data, as `growing.py` describes them.
        tiled: the states of that kind that each tile has, those of the lifetime first. If there are states of either
            kind, the last of the base words says how many words they take.
        state_costs: per state of a tile what a key may cost, in bytes; in all not more than a row.
        grown: per state whether its keys are texts.
        grown_slots: what `grown_reads.read_growing` reads of them into slots, with `grown_items` of lists and maps.
        texts: physical columns that hold numbers of texts (`texts.py`).
        nested: the table of `nested.read_nested`, with `nested_names` and `nested_dtypes` beside it.
        edges: per lane 1 if some feature needs its first and last rows, with `lifetime_edges` of the lifetime.
        flagged: rows may stay in a record though a tile or the base counts them, so each has a flag.
        tile_words: words of a tile, its start apart.
        levels: int64 [levels, 3]: from which age on (µs behind the clock, the as-of horizon apart) events may be in
            tiles of which length, and in which steps that border moves; see `tiles.py`.
        fewest: events that make a tile.
    """

    columns: tuple[tuple[int, int], ...]
    lanes: IntArray
    windows: IntArray
    features: IntArray
    pointers: IntArray
    names: tuple[str, ...]
    dtypes: tuple[DType, ...]
    lists: Mapping[str, IntArray]
    composed: Mapping[str, tuple[str, ...]]
    reach_us: int
    base_words: int
    ordered: bool
    lifetime: bool
    edges: IntArray
    lifetime_edges: IntArray
    flagged: bool
    rows: bool
    kept: IntArray
    tile_kept: IntArray
    growing: IntArray
    tiled: IntArray
    state_costs: IntArray
    grown: BoolArray
    grown_slots: IntArray
    grown_items: IntArray
    texts: tuple[int, ...]
    nested: IntArray
    nested_names: tuple[str, ...]
    nested_dtypes: tuple[DType, ...]
    tile_words: int
    levels: IntArray
    fewest: int

    @cached_property
    def cut_step_us(self) -> int:
        """The cut moves in steps, so that rows are dropped or folded now and then instead of with every event.

        Folding costs more than dropping, so a group with lifetime features does it more rarely, the more so the fewer
        events its windows can hold.
        """
        reach = self.reach_us
        step = max(reach * 2 + min(reach * 6, 7 * US_PER_DAY) if self.lifetime else reach // 8, 1)
        # A tile lies before the cut or behind it.
        granule = int(self.levels[-1, 0]) if len(self.levels) else 1
        return -(-step // granule) * granule

    @property
    def has_states(self) -> bool:
        """True if records hold states whose size follows their data."""
        return len(self.growing) > 0 or len(self.tiled) > 0

    @cached_property
    def width(self) -> int:
        """Number of physical columns."""
        return len(self.columns)

    @cached_property
    def objects(self) -> tuple[str, ...]:
        """Names of features that are no 8-byte words: lists and maps, then texts (whose slots hold their numbers), then
        lists of a fixed length."""
        texts = [n for n, dtype in zip(self.names, self.dtypes, strict=True) if dtype is DType.STRING]
        return (*self.nested_names, *texts, *self.lists)

    @cached_property
    def online_features(self) -> IntArray:
        """`features` without those that online reads take from growing states."""
        features = self.features.copy()
        if len(self.grown_slots):
            features[self.grown_slots[:, gr.F_TARGET], k.FEATURE_CODE] = codes.GROWN
        return features

    @cached_property
    def online_nested(self) -> IntArray:
        """`nested` without those that online reads take from growing states."""
        table = self.nested.copy()
        if len(self.grown_items):
            table[self.grown_items[:, gr.F_TARGET], nested.N_CODE] = codes.GROWN
        return table

    @cached_property
    def row_words(self) -> int:
        """Words of a row: its time, its columns, its flag, its offset and partition."""
        return 1 + self.width + self.flagged + 2 * self.ordered

    def levels_at(self, horizon_us: int) -> IntArray:
        """The levels with the as-of horizon added to their ages; not to be changed."""
        levels = self._levels_by_horizon.get(horizon_us)
        if levels is None:
            levels = self.levels.copy()
            levels[levels[:, LEVEL_AGE] != ALWAYS, LEVEL_AGE] += horizon_us
            self._levels_by_horizon[horizon_us] = levels
        return levels

    @cached_property
    def _levels_by_horizon(self) -> dict[int, IntArray]:
        return {}


def layout_of(group: Group) -> GroupLayout:
    """Lay out a group; equal plans give equal layouts."""
    group, composed = taken_apart(group)
    columns: list[tuple[int, int]] = []
    first_column: list[int] = []
    for index, spec in enumerate(group.inputs):
        first_column.append(len(columns))
        columns += [(index, element) for element in range(spec.size or 1)]
        if spec.dtype is DType.INT:
            columns.append((index, VALIDITY))
    windows = sorted({window_of(a) for a in group.aggregates})
    listed = [a for a in group.aggregates if is_nested(a)]
    # Each element of a list is aggregated by itself, like a column of its own.
    plain = [(a, element) for a in group.aggregates if not is_nested(a) for element in range(_elements(group, a))]
    lane_ids: dict[tuple[int, int, int, int], int] = {}
    for a, element in plain:
        lane_ids.setdefault(_lane_of(group, a, element), len(lane_ids))
    lanes = np.full((len(lane_ids), 7), -1, np.int64)
    lifetime_edges = np.zeros(len(lane_ids), np.int64)
    base_of: dict[int, int] = {}
    lanes[:, k.LANE_OPS] = 0
    features = []
    for a, element in plain:
        lane = lane_ids[_lane_of(group, a, element)]
        kind = ln.ROWS if a.input is None else kind_of(group.inputs[a.input].dtype)
        code, ops = slot_of(a)
        lanes[lane, k.LANE_KIND] = kind
        lanes[lane, k.LANE_OPS] |= ops
        lanes[lane, k.LANE_COLUMN] = 0 if a.input is None else first_column[a.input] + element
        lanes[lane, k.LANE_WHERE] = -1 if a.where is None else first_column[a.where]
        lanes[lane, k.LANE_VALIDITY] = -1 if kind != ln.NULLABLE_INT else lanes[lane, k.LANE_COLUMN] + 1
        if a.window_us is None:
            lifetime_edges[lane] |= ops & codes.EDGES != 0
            if code < codes.RATE and not is_text_extreme(group, a):
                base_of.setdefault(lane, 0)
        window = windows.index(window_of(a))
        boolean = int(a.dtype is DType.BOOL and aggregation(a.kind).one_of_the_values)
        name, dtype = a.name, a.dtype
        if dtype is DType.LIST:
            # Added up by element; or one of them as it is, and then it lies in the record as a text.
            by_element = group.inputs[a.input or 0].dtype is DType.LIST
            name, dtype = (element_name(name, element), DType.FLOAT) if by_element else (name, DType.STRING)
        features.append((lane, window, code, param_of(a), boolean, name, dtype))
    base_words = 0
    for lane in sorted(base_of):
        lanes[lane, k.LANE_BASE] = base_words
        ops = int(lanes[lane, k.LANE_OPS])
        base_words += ln.lane_size(ops) + (2 if ops & ln.EXTREMES else 0)
    tile_words = 0
    for lane in range(len(lane_ids)):
        lanes[lane, k.LANE_TILE] = tile_words
        tile_words += _tile_words(int(lanes[lane, k.LANE_KIND]), int(lanes[lane, k.LANE_OPS]))
    edges = (lanes[:, k.LANE_OPS] & codes.EDGES != 0).astype(np.int64)
    # What `window_rows.py` reads comes last, where no lane points to.
    features.sort(key=lambda f: (f[2] >= codes.RATE, f[0], f[1]))
    slots = {f[5]: slot for slot, f in enumerate(features)}
    places = [(f[0], f[1]) for f in features if f[2] < codes.RATE]
    pointers = np.zeros((len(lane_ids), len(windows) + 1), np.int64)
    for lane in range(len(lane_ids)):
        for window in range(len(windows) + 1):
            pointers[lane, window] = bisect_left(places, (lane, window))
    reach = max((w + hop for w, hop, _ in windows if w >= 0), default=0) + max(d for _, _, d in windows)
    # A rate is a sum over a span, so it reads tiles as sums do; the others need each event of their windows, or states
    # whose size follows their data. Of a group of hot entities tiles have such states, and some of the rows in a tile
    # can be kept. Others are spared both.
    hot = group.resolution_us > 1
    one_by_one = [a for a in group.aggregates if is_nested(a) or slot_of(a)[0] > codes.RATE]
    whole = {window_of(a) for a in one_by_one if not (hot and (is_kept_in_tiles(a) or is_in_states(a)))}
    texts = tuple(c for c, (index, _) in enumerate(columns) if group.inputs[index].dtype is DType.STRING)
    kept = kept_table(group, first_column)
    # Numbers of texts change with the rows that a record holds, so lanes of tiles may have none; and what the lifetime
    # needs one by one until it is folded may be in no tile.
    of_texts = np.isin(lanes[:, k.LANE_COLUMN], texts) & (lanes[:, k.LANE_KIND] != ln.ROWS)
    numbers = bool((lanes[of_texts, k.LANE_OPS] & ln.EXTREMES).any())
    grows = any(a.window_us is None and is_in_states(a) for a in group.aggregates)
    single = (not hot and (bool(texts) or grows)) or numbers or bool(len(kept))
    levels = _levels([] if single else [(*window, window in whole) for window in windows], group.resolution_us)
    growing, tiled, reads = growing_table(group, first_column, windows, tiled=hot and len(levels) > 0)
    base_words += len(growing) > 0 or len(tiled) > 0
    lifetime = any(w < 0 for w, _, _ in windows)
    tile_kept = kept_table(group, first_column, windowed=True) if len(levels) and hot else kept[:0]
    flagged = (bool(edges.any()) or bool(len(kept)) or bool(len(tile_kept))) and (lifetime or len(levels) > 0)
    ordered = any(aggregation(a.kind).by_place for a in group.aggregates)
    row_words = 1 + len(columns) + flagged + 2 * ordered
    return GroupLayout(
        columns=tuple(columns),
        lanes=lanes,
        windows=np.array([(w, hop, delay, group.resolution_us) for w, hop, delay in windows], np.int64),
        features=np.array([f[:5] for f in features], np.int64).reshape(-1, 5),
        pointers=pointers,
        names=tuple(f[5] for f in features),
        dtypes=tuple(f[6] for f in features),
        lists={
            a.name: np.array([slots[element_name(a.name, e)] for e in range(_elements(group, a))], np.int64)
            for a in group.aggregates
            if a.input is not None and group.inputs[a.input].dtype is DType.LIST
        },
        composed=composed,
        reach_us=reach + group.resolution_us,
        base_words=base_words,
        ordered=ordered,
        lifetime=lifetime,
        edges=edges,
        lifetime_edges=lifetime_edges,
        flagged=flagged,
        rows=any(f[2] >= codes.RATE and f[5] not in reads for f in features),
        kept=kept,
        tile_kept=tile_kept,
        growing=growing,
        tiled=tiled,
        state_costs=_state_costs(tiled, 8 * row_words),
        grown=text_keys(tiled if len(tiled) else growing, texts),
        grown_slots=sorted_reads([(*reads[f[5]], f[4], slot) for slot, f in enumerate(features) if f[5] in reads]),
        grown_items=sorted_reads([(*reads[a.name], 0, at) for at, a in enumerate(listed) if a.name in reads]),
        texts=texts,
        nested=nested_table(group, listed, first_column, windows),
        nested_names=tuple(a.name for a in listed),
        nested_dtypes=tuple(a.dtype for a in listed),
        tile_words=tile_words,
        levels=levels,
        fewest=_fewest(row_words, 1 + tile_words + _state_words(tiled), int(edges.sum())),
    )


def _elements(group: Group, spec: Aggregate) -> int:
    """How many slots a feature has: one per element of its lists."""
    return 1 if spec.input is None else group.inputs[spec.input].size or 1


def _lane_of(group: Group, spec: Aggregate, element: int) -> tuple[int, int, int, int]:
    """What shares a lane: an input (of lists, an element) under a condition; of texts, the lifetime has its own, and
    one for its extremes.

    Numbers of texts change with the rows that a record holds, so no state of older rows may have any.
    """
    source = -1 if spec.input is None else spec.input
    texts = source >= 0 and group.inputs[source].dtype is DType.STRING and spec.window_us is None
    return source, element, -1 if spec.where is None else spec.where, texts + is_text_extreme(group, spec)


def _fewest(row_words: int, tile_words: int, edge_lanes: int) -> int:
    """From how many rows on a tile, and the four rows of each lane that may have to stay, surely take fewer words."""
    return (tile_words + 4 * edge_lanes * row_words) // row_words + 2


def _tile_words(kind: int, ops: int) -> int:
    """Words of a lane in a tile: rows, or valid values, true ones, the sum, squares, least and greatest value."""
    if kind == ln.ROWS:
        return 1
    squares = ln.TILE_SQUARE_DIGITS // 2 if ops & codes.SQUARES else 0
    sums = 2 if ops & codes.SUMS else 0
    return 1 + bool(ops & codes.TRUES) + sums + squares + bool(ops & codes.LEAST) + bool(ops & codes.MOST)


def _state_words(tiled: IntArray) -> int:
    """Words that the growing states of a tile take, their keys apart."""
    moments = int((tiled[:, gr.G_FORM] == codes.MOMENTS).sum())
    return STATE_HEAD * len(tiled) + MOMENT_WORDS * moments + (len(tiled) > 0)


def _state_costs(tiled: IntArray, row_bytes: int) -> IntArray:
    """Per growing state of a tile the bytes that a key may cost; in all not more than a row, so that an interval that
    pays as a tile does so for good."""
    costs = np.array([KEY_BYTES[form] for form in tiled[:, gr.G_FORM].tolist()], np.int64)
    spent = int(costs.sum())
    return costs * row_bytes // spent if spent > row_bytes else costs


def _levels(windows: list[tuple[int, int, int, bool]], resolution_us: int) -> IntArray:
    """Levels of tiles for windows (length, hop, delay, and whether it needs its events one by one)."""
    finite = sorted(
        (length + hop + delay + resolution_us, 1 if whole else hop)
        for length, hop, delay, whole in windows
        if length >= 0
    )
    if not windows:
        return np.zeros((0, 3), np.int64)
    newest = max(delay for _, _, delay, _ in windows) + resolution_us
    hops = [hop for _, hop in finite]
    # Near the newest event both edges of windows fall, further back those lower edges that reach there.
    found = [(ALWAYS, gcd(resolution_us, *hops))]
    if finite:
        found.append((newest, gcd(*hops)))
        found += [(reach, gcd(*hops[at + 1 :])) for at, (reach, _) in enumerate(finite[:-1])]
    levels: list[tuple[int, int, int]] = []
    for age, granule in found:
        if granule > (levels[-1][0] if levels else 1):
            levels.append((granule, age, max(age // 16 // granule, 1) * granule))
    return np.array(levels, np.int64).reshape(-1, 3)


class Scratch:
    """Working memory of the kernel for one thread."""

    def __init__(self, windows: int) -> None:
        self.lane: IntArray = np.zeros(ln.LANE_WORDS, np.int64)
        self.work: IntArray = np.zeros(2 * WORK_WORDS, np.int64)
        self.other: IntArray = np.zeros(2 * WORK_WORDS, np.int64)
        self.bounds: IntArray = np.zeros((6, max(windows, 1)), np.int64)
        self.tally: IntArray = np.zeros(1, np.int64)


def physical_columns(
    layout: GroupLayout, values: list[tuple[DType, np.ndarray[Any, Any], BoolArray | None]]
) -> list[IntArray]:
    """Turn a group's evaluated inputs into the 8-byte words that records and history hold, one array per column.

    FLOAT and BOOL become float64 bits with NaN for null; TIMESTAMP and DURATION int64 with NULL_US for null; INT int64
    followed by a validity column of 1.0 or 0.0. LIST, given as `core.columns.elements_of`, becomes a FLOAT column per
    element.
    """
    return [physical_column(*values[index], part) for index, part in layout.columns]


def physical_column(dtype: DType, data: np.ndarray[Any, Any], valid: BoolArray | None, part: int = 0) -> IntArray:
    """One column of `physical_columns`: the words of an evaluated input, of an element of its lists (`part`), or those
    that say which of them are valid (VALIDITY)."""
    if part == VALIDITY:
        flags = np.ones(len(data)) if valid is None else valid.astype(np.float64)
        return flags.view(np.int64)
    if dtype is DType.LIST:
        words: IntArray = data[part].view(np.int64)
        return words
    if dtype is DType.FLOAT or dtype is DType.BOOL:
        floats = data.astype(np.float64, copy=False)
        if valid is not None:
            floats = np.where(valid, floats, np.nan)
        return np.ascontiguousarray(floats).view(np.int64)
    filler = 0 if dtype is DType.INT else NULL_US
    return data if valid is None else np.where(valid, data, filler)
