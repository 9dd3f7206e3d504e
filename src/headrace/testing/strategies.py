"""Hypothesis strategies: small random histories full of what goes wrong in real logs, and plans to read them with.

One event schema serves them all (`SCHEMA`): a time, an id, keys of text and integers, and inputs of every type. Draw a
stream with `streams()`, a log with `histories(stream)`, a group with `group_plans(stream)` and times at which edges
matter with `read_times(records)`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from headrace.aggregations.registry import aggregation, aggregations
from headrace.core.schema import DType, Field, Schema, map_of
from headrace.core.time import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, US_PER_SECOND
from headrace.features.nodes import Call, ColumnRef, Literal, Node
from headrace.features.plan import (
    AggregateSpec,
    DerivedSpec,
    GroupPlan,
    InputSpec,
    KeyPart,
    StreamPlan,
    TablePlan,
)
from headrace.testing.oracle.events import RawEvent, judge
from headrace.testing.oracle.tables import TableRow

FIRST_KINDS = tuple(aggregations())
"""Aggregations that `group_plans` draws unless told otherwise."""

_SPOT_SIZE = 3
_FIELDS = (
    Field("at", DType.TIMESTAMP),
    Field("user", DType.STRING, nullable=True),
    Field("shop", DType.INT),
    Field("amount", DType.FLOAT, nullable=True),
    Field("price", DType.FLOAT),
    Field("quantity", DType.INT, nullable=True),
    Field("total", DType.INT),
    Field("flag", DType.BOOL, nullable=True),
    Field("due", DType.TIMESTAMP, nullable=True),
    Field("channel", DType.STRING, has_default=True, default="app"),
    Field("spot", DType.LIST, nullable=True, size=_SPOT_SIZE),
)
SCHEMA = Schema("order", _FIELDS, "at")
"""The events without a declared id; `streams` adds a text or an integer one."""

# Before, at and after the epoch: flooring must be toward minus infinity.
_BASES_US = (0, -40 * US_PER_DAY, 1_360_000_000_000_000)
_UNITS_US = (1, US_PER_SECOND, US_PER_MINUTE, 5 * US_PER_MINUTE, US_PER_HOUR, US_PER_DAY)
_SMALL_UNITS_US = (US_PER_SECOND, US_PER_MINUTE, US_PER_MINUTE, 5 * US_PER_MINUTE)
_RESOLUTIONS_US = (1, 1, US_PER_SECOND, US_PER_MINUTE)
_WINDOWS_US = (
    1,
    US_PER_SECOND,
    US_PER_MINUTE,
    10 * US_PER_MINUTE,
    US_PER_HOUR,
    3 * US_PER_HOUR,
    US_PER_DAY,
    7 * US_PER_DAY,
    30 * US_PER_DAY,
)
_DELAYS_US = (0, 0, 0, 0, 0, 0, 1, 90 * US_PER_SECOND, US_PER_HOUR, US_PER_DAY)
_EXTREME_FLOATS = (
    0.0,
    -0.0,
    1.0,
    0.1,
    0.2,
    0.3,
    1e308,
    -1e308,
    1.7976931348623157e308,
    -1.7976931348623157e308,
    5e-324,
    -5e-324,
    2.2250738585072014e-308,
    1e16,
    -1e16,
    2.0**53,
    2.0**53 + 2,
    1e-300,
)
_EXTREME_INTS = (0, 1, -1, 2**63 - 1, -(2**63), 2**62, -(2**62), 2**53, 2**53 + 1, -(2**53) - 1, 2**32, 2**31)


def floats() -> st.SearchStrategy[float]:
    """Finite float64: small whole numbers, what cancels, overflows and underflows, and anything at all."""
    return st.one_of(
        st.sampled_from(_EXTREME_FLOATS),
        st.integers(-4, 4).map(float),
        st.floats(-1e6, 1e6),
        st.floats(allow_nan=False, allow_infinity=False),
    )


def integers() -> st.SearchStrategy[int]:
    """int64: small ones, both ends, and where float64 ends to be exact."""
    return st.one_of(st.integers(-3, 3), st.sampled_from(_EXTREME_INTS), st.integers(-(2**63), 2**63 - 1))


def times(base_us: int | None = None, unit_us: int | None = None) -> st.SearchStrategy[int]:
    """Event times that tie, lie on multiples of hops, and one µs beside them; also before 1970.

    With a base and a unit they are a few units around the base, so that windows of that size hold several.
    """
    return st.builds(
        lambda base, step, unit, jitter: base + step * unit + jitter,
        st.sampled_from(_BASES_US) if base_us is None else st.just(base_us),
        st.integers(-12, 12),
        st.sampled_from(_UNITS_US) if unit_us is None else st.just(unit_us),
        st.sampled_from((0, 0, 0, 1, -1)),
    )


def streams() -> st.SearchStrategy[StreamPlan]:
    """Streams of `SCHEMA` without an id or with one of text or integers, and with various verdict settings."""
    identities: list[Field | None] = [None, Field("order_id", DType.STRING), Field("order_id", DType.INT)]
    return st.builds(
        _stream,
        st.sampled_from(identities),
        st.sampled_from((None, None, None, 0, US_PER_MINUTE, US_PER_DAY)),
        st.sampled_from((US_PER_DAY, US_PER_DAY, US_PER_HOUR, 0)),
        st.sampled_from((US_PER_HOUR, US_PER_HOUR, 0, 10 * US_PER_DAY)),
    )


def _stream(identity: Field | None, lateness_us: int | None, dedupe_us: int, future_us: int) -> StreamPlan:
    schema = SCHEMA if identity is None else Schema("order", (identity, *_FIELDS), "at", identity.name)
    return StreamPlan("order", schema, lateness_us=lateness_us, dedupe_us=dedupe_us, future_us=future_us)


_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "user": st.sampled_from((*(("ann",) * 6), "bob", "é", "\U0001f600", "\uffff", "", None)),
    "shop": st.sampled_from((7, 7, 7, -1, 0)),
    "amount": st.one_of(floats(), st.none(), st.just(float("nan"))),
    "price": floats(),
    "quantity": st.one_of(integers(), st.none()),
    "total": integers(),
    "flag": st.sampled_from((True, False, None)),
    "due": st.one_of(times(), st.none()),
    "channel": st.sampled_from(("app", "web", "test")),
    "spot": st.one_of(
        st.lists(st.one_of(floats(), floats(), st.none()), min_size=_SPOT_SIZE, max_size=_SPOT_SIZE), st.none()
    ),
}
# Text ids whose order by UTF-16 units differs from that by UTF-8 bytes, and that sort before and after the empty one.
_TEXT_IDS = ("a", "b", "B", "aa", "", "é", "\uffff", "\U0001f600")
_NUMBER_IDS = (-(2**63), -1, 0, 1, 10, 9, 2**63 - 1)

# How long after it happened an event arrives. Negative: its sender's clock is ahead; an hour is the usual limit.
_LAGS_US = (
    *((0,) * 10),
    1,
    US_PER_SECOND,
    5 * US_PER_MINUTE,
    3 * US_PER_HOUR,
    2 * US_PER_DAY,
    -1,
    -US_PER_HOUR,
    -US_PER_HOUR - 1,
    -30 * US_PER_DAY,
)
_REPEAT_AFTER_US = (0, 1, US_PER_MINUTE, US_PER_HOUR, US_PER_DAY, US_PER_DAY + 1, 3 * US_PER_DAY)


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A record before it has its place in the log."""

    partition: int
    arrival_us: int
    fields: dict[str, Any] | None


@st.composite
def histories(
    draw: st.DrawFn, stream: StreamPlan, max_events: int = 60, max_partitions: int = 3, malformed: bool = True
) -> list[RawEvent]:
    """The log of `stream` in 1 to `max_partitions` partitions, in arrival order; arrivals never go back.

    Holds ties, nulls, NaN (as null), events out of order, late by minutes and days, duplicates with the same and other
    contents within and beyond the dedupe horizon and, with `malformed`, records that are dead letters.
    """
    partitions = draw(st.integers(1, max_partitions))
    near = times(draw(st.sampled_from(_BASES_US)), draw(st.sampled_from((*_UNITS_US, *_SMALL_UNITS_US))))
    when = st.one_of(near, near, near, near, times())
    arrivals: list[_Arrival] = []
    for _ in range(draw(st.one_of(st.integers(0, max_events), st.integers(max_events // 2, max_events)))):
        arrivals.append(draw(_arrivals(stream, partitions, arrivals, when, malformed)))
    # Sorting is stable, so draws that arrive together keep the order in which they were drawn.
    arrivals.sort(key=lambda arrival: arrival.arrival_us)
    ends = [0] * partitions
    records = []
    for arrival in arrivals:
        records.append(RawEvent(arrival.partition, ends[arrival.partition], arrival.arrival_us, arrival.fields))
        ends[arrival.partition] += 1
    return records


@st.composite
def _arrivals(
    draw: st.DrawFn,
    stream: StreamPlan,
    partitions: int,
    before: Sequence[_Arrival],
    when: st.SearchStrategy[int],
    malformed: bool,
) -> _Arrival:
    kind = draw(st.integers(0, 19))
    if kind < 4 and before:
        original = draw(st.sampled_from(before))
        arrival_us = original.arrival_us + draw(st.sampled_from(_REPEAT_AFTER_US))
        fields = original.fields
        if kind == 3 and fields is not None:
            at = draw(when)
            at = at if malformed else min(at, arrival_us + stream.future_us)
            fields = {**fields, "price": draw(floats()), "at": at}
        return replace(original, arrival_us=arrival_us, fields=fields)
    time = draw(when)
    lag = draw(st.sampled_from(_LAGS_US))
    fields = {"at": time, **{name: draw(values) for name, values in _VALUES.items()}}
    partition = draw(st.integers(0, partitions - 1))
    if stream.schema.id_field is not None:
        # An id always routes to one partition.
        known = _TEXT_IDS if stream.schema[stream.schema.id_field].dtype is DType.STRING else _NUMBER_IDS
        place = draw(st.integers(0, len(known) - 1))
        fields[stream.schema.id_field] = known[place]
        partition = place % partitions
    if malformed and kind == 4:
        return _Arrival(partition, time + lag, None)
    if malformed and kind == 5 and fields["spot"]:
        fields["spot"] = fields["spot"][1:]
    if not malformed:
        lag = max(lag, -stream.future_us)
    return _Arrival(partition, time + lag, fields)


_INPUTS: tuple[tuple[Node, DType], ...] = (
    (ColumnRef("amount", DType.FLOAT), DType.FLOAT),
    (ColumnRef("price", DType.FLOAT), DType.FLOAT),
    (ColumnRef("quantity", DType.INT), DType.INT),
    (ColumnRef("total", DType.INT), DType.INT),
    (ColumnRef("flag", DType.BOOL), DType.BOOL),
    (ColumnRef("due", DType.TIMESTAMP), DType.TIMESTAMP),
    (
        Call("mul", (ColumnRef("amount", DType.FLOAT), ColumnRef("price", DType.FLOAT)), DType.FLOAT),
        DType.FLOAT,
    ),
    (Call("gt", (ColumnRef("amount", DType.FLOAT), Literal(0.5, DType.FLOAT)), DType.BOOL), DType.BOOL),
    (Call("xxh64", (ColumnRef("user", DType.STRING),), DType.INT), DType.INT),
    (ColumnRef("user", DType.STRING), DType.STRING),
    (ColumnRef("channel", DType.STRING), DType.STRING),
    (ColumnRef("spot", DType.LIST), DType.LIST),
    (Call("packed", (ColumnRef("spot", DType.LIST),), DType.STRING), DType.STRING),
)
_PACKED = len(_INPUTS) - 1
"""The lists as texts, of which there are first and last ones only."""
_CONDITIONS: tuple[Node, ...] = (
    ColumnRef("flag", DType.BOOL),
    Call("ne", (ColumnRef("channel", DType.STRING), Literal("test", DType.STRING)), DType.BOOL),
    Call("lt", (ColumnRef("amount", DType.FLOAT), Literal(1.0, DType.FLOAT)), DType.BOOL),
    Call("not", (Call("is_null", (ColumnRef("quantity", DType.INT),), DType.BOOL),), DType.BOOL),
    *(
        Call(
            op,
            (ColumnRef("flag", DType.BOOL), Call("is_in", (ColumnRef("shop", DType.INT),), DType.BOOL, (0, 7))),
            DType.BOOL,
        )
        for op in ("and", "or")
    ),
)
_KEYS = (
    (KeyPart("user", DType.STRING, "user"),),
    (KeyPart("shop", DType.INT, "shop"),),
    (KeyPart("user", DType.STRING, "user"), KeyPart("shop", DType.INT, "shop")),
    (),
)
_BUCKETS = frozenset({DType.INT, DType.BOOL, DType.TIMESTAMP, DType.STRING})


@st.composite
def group_plans(
    draw: st.DrawFn, stream: StreamPlan, max_aggregates: int = 12, kinds: Sequence[str] = FIRST_KINDS
) -> GroupPlan:
    """A windowed group over `stream`: any key, condition, inputs, legal windows, hops, delays and resolution."""
    resolution = draw(st.sampled_from(_RESOLUTIONS_US))
    # All inputs, then all conditions; aggregates point into them.
    inputs = tuple(InputSpec(node, dtype, _SPOT_SIZE if dtype is DType.LIST else None) for node, dtype in _INPUTS)
    conditions = tuple(InputSpec(node, DType.BOOL) for node in _CONDITIONS)
    aggregates: tuple[AggregateSpec, ...] = tuple(
        draw(_aggregates(f"f{number}", draw(st.sampled_from(kinds)), resolution))
        for number in range(draw(st.integers(1, max_aggregates)))
    )
    derived = _ratio(aggregates) if draw(st.booleans()) else ()
    return GroupPlan(
        name="spend",
        version="0123456789abcdef",
        stream=stream.name,
        where=draw(st.sampled_from((None,) * 8 + _CONDITIONS)),
        key=draw(st.sampled_from(_KEYS)),
        inputs=inputs + conditions,
        aggregates=aggregates,
        derived=derived,
        order=(*(spec.name for spec in aggregates), *(spec.name for spec in derived)),
        resolution_us=resolution,
    )


@st.composite
def _aggregates(draw: st.DrawFn, name: str, kind: str, resolution_us: int) -> AggregateSpec:
    what = aggregation(kind)
    # What is packed or hashed before it is aggregated stands among the inputs as that.
    instead = {DType.LIST} if what.packs_lists else {DType.STRING} if what.hashes_texts else set()
    usable = [
        index
        for index, (_, dtype) in enumerate(_INPUTS)
        if dtype in what.takes - instead and (index != _PACKED or what.packs_lists)
    ]
    source = draw(st.sampled_from(usable)) if usable else None
    condition = draw(st.sampled_from((None,) * 8 + tuple(range(len(_CONDITIONS)))))
    if what.takes_events and draw(st.booleans()):
        source = None
    params = tuple(sorted(draw(st.sampled_from(what.examples())).items()))
    buckets = [index for index, (_, dtype) in enumerate(_INPUTS[:_PACKED]) if dtype in _BUCKETS]
    lists = source is not None and _INPUTS[source][1] is DType.LIST
    has_by = what.by_code is not None and not lists and draw(st.integers(0, 3)) == 0
    by = draw(st.sampled_from(buckets)) if has_by else None
    window, hop = draw(_windows(resolution_us, lifetime=not what.needs_window))
    if "halflife_us" in what.parameters:
        # The hop is the half-life, and the window not more than 64 of them.
        hop = draw(st.sampled_from([unit for unit in (1, *_UNITS_US, 3_000_000) if unit % resolution_us == 0]))
        window, params = hop * draw(st.sampled_from((1, 2, 10, 64, 64))), (("halflife_us", hop),)
    whole_list = source == _PACKED
    dtype = DType.LIST if whole_list else what.gives_for(None if source is None else _INPUTS[source][1])
    if by is not None:
        dtype = map_of(_INPUTS[by][1], dtype)
    return AggregateSpec(
        name=name,
        kind=kind,
        input=source,
        where=None if condition is None else len(_INPUTS) + condition,
        window_us=window,
        hop_us=hop,
        delay_us=draw(st.sampled_from(_DELAYS_US)),
        dtype=dtype,
        params=params,
        by=by,
    )


@st.composite
def _windows(draw: st.DrawFn, resolution_us: int, lifetime: bool) -> tuple[int | None, int]:
    """A window and a hop that divides it and is a multiple of the resolution; None is the whole lifetime."""
    legal = [window for window in _WINDOWS_US if window % resolution_us == 0]
    window = draw(st.sampled_from((*((None, None) if lifetime else ()), *legal, *(legal[len(legal) // 2 :] * 2))))
    if window is None:
        return None, resolution_us
    hops = {resolution_us, window, *(unit for unit in _UNITS_US if unit <= window)}
    return window, draw(st.sampled_from([h for h in sorted(hops) if window % h == 0 and h % resolution_us == 0]))


def _ratio(aggregates: Sequence[AggregateSpec]) -> tuple[DerivedSpec, ...]:
    """The quotient of the first two numbers of the group, if it has two."""
    numbers = [ColumnRef(spec.name, spec.dtype) for spec in aggregates if spec.dtype in (DType.INT, DType.FLOAT)]
    if len(numbers) < 2:
        return ()
    return (DerivedSpec("ratio", Call("div", (numbers[0], numbers[1]), DType.FLOAT), DType.FLOAT),)


def entities_of(stream: StreamPlan, group: GroupPlan, records: Sequence[RawEvent]) -> list[tuple[Any, ...]]:
    """Every key of the group that a counted record holds, those with most records first, and one that none holds."""
    found = Counter(tuple(event.row[part.name] for part in group.key) for event in judge(stream, records))
    unseen = tuple("nobody" if part.dtype is DType.STRING else 123_456 for part in group.key)
    seen = [key for key, _ in found.most_common() if None not in key]
    return seen if unseen in seen else [*seen, unseen]


def read_times(records: Sequence[RawEvent], group: GroupPlan | None = None) -> st.SearchStrategy[int]:
    """Times at and beside events, and at which an event enters or leaves a window of `group`."""
    moments = sorted(record.fields["at"] for record in records if record.fields is not None)
    if not moments:
        return times()
    distances = [0]
    for spec in () if group is None else group.aggregates:
        distances += [spec.delay_us, spec.delay_us + spec.hop_us, spec.delay_us + (spec.window_us or 0)]
    beside = st.builds(
        lambda moment, distance, jitter: moment + distance + jitter,
        # Mostly late ones, which have events behind them.
        st.one_of(st.sampled_from(moments[len(moments) // 2 :]), st.sampled_from(moments)),
        st.sampled_from(distances),
        st.sampled_from((0, 0, 1, -1)),
    )
    return st.one_of(beside, beside, beside, beside, beside, times())


def positions(records: Sequence[RawEvent]) -> st.SearchStrategy[list[int]]:
    """A position in the log of `records`: in each partition any offset up to its end."""
    count = max((record.partition for record in records), default=0) + 1
    ends = [sum(record.partition == partition for record in records) for partition in range(count)]
    return st.tuples(*(st.integers(0, end) for end in ends)).map(list)


TABLE_SCHEMA = Schema(
    "profile",
    (
        Field("user", DType.STRING, entity="user"),
        Field("age", DType.INT, nullable=True),
        Field("score", DType.FLOAT, nullable=True),
        Field("at", DType.TIMESTAMP),
    ),
    "at",
)


def table_plans() -> st.SearchStrategy[TablePlan]:
    """Tables of `TABLE_SCHEMA` with and without a time to live and a delay of backfilled rows."""
    return st.builds(
        lambda ttl_us, delay_us: TablePlan(
            name="profile",
            version="fedcba9876543210",
            schema=TABLE_SCHEMA,
            key=(KeyPart("user", DType.STRING, "user"),),
            query=None,
            on=None,
            schedule=None,
            ttl_us=ttl_us,
            delay_us=delay_us,
            checks=(),
        ),
        st.sampled_from((None, None, US_PER_MINUTE, US_PER_DAY)),
        st.sampled_from((0, 0, US_PER_HOUR)),
    )


@st.composite
def table_histories(draw: st.DrawFn, max_rows: int = 40) -> list[TableRow]:
    """Writes to a table in write order: ties of event time, older rows written later, deletions, backfilled rows."""
    written = sorted(draw(st.lists(times(), max_size=max_rows)))
    rows = []
    for offset, written_us in enumerate(written):
        user = draw(st.sampled_from(("ann", "bob", "é")))
        at = draw(st.one_of(times(), st.sampled_from((written_us, written_us - 1, written_us - US_PER_HOUR))))
        values = {
            "user": user,
            "age": draw(_VALUES["quantity"]),
            "score": draw(st.one_of(floats(), st.none())),
            "at": at,
        }
        deleted = draw(st.integers(0, 5)) == 0
        backfilled = draw(st.integers(0, 3)) == 0
        rows.append(TableRow(offset, written_us, (user,), at, None if deleted else values, backfilled))
    return rows
