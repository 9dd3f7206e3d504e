"""Two sides compared value by value: what each version of the code would answer of the same entities at one position.

Records of both stores are read as they lie there. Whichever store is behind, its records are brought up to the other's
position by the side's own commits; then each side's records are read by its own version of the code, in a process of
its own where that is another one, and the values are compared by their bits.
"""

from __future__ import annotations

import heapq
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any

import msgspec
import numpy as np

from headrace.app.beside import beside_of
from headrace.app.sides import Side
from headrace.core.columns import column_of
from headrace.core.errors import StoreError
from headrace.core.keys import decode_entity
from headrace.core.positions import Position, decode_position, encode_position
from headrace.core.schema import DType
from headrace.engines.stream.commits import WINDOWS
from headrace.features.plan import GroupPlan, TablePlan

if TYPE_CHECKING:
    from headrace.app.settings import Settings
    from headrace.app.wiring import Parts

_VERSION_BYTES = 8
_AT_ONCE = 2_000
_WAIT_S = 30.0
_EXAMPLES = 5
_FORMAT = 1
_length = struct.Struct("<Q")


class Asked(msgspec.Struct, frozen=True):
    """What a side is asked: the values of some entities of a group or table, at a position and at two times.

    Attributes:
        source: name of the group or table; a version of a group that is kept has a name of its own.
        entities: values of their keys.
        keys, records: records that are read for them, as they lie in the side's store.
        since: the position of these.
        until: the position that is asked for, encoded as `since` is.
        beside: whether the side is the one beside the served one.
    """

    source: str
    entities: list[list[Any]]
    keys: list[bytes]
    records: list[bytes | None]
    since: bytes
    until: bytes
    beside: bool
    format: int = _FORMAT


class Compared(msgspec.Struct):
    """What was compared: values in all, and `[compared, differing]` by feature; examples say entity and both values."""

    served: str
    beside: str
    compared: int = 0
    differing: int = 0
    features: dict[str, list[int]] = {}
    examples: list[str] = []
    left_out: list[str] = []

    def __str__(self) -> str:
        lines = [f"{self.differing:,} of {self.compared:,} values differ between {self.served} and {self.beside}"]
        lines += [f"  {name}: {bad:,} of {of:,}" for name, (of, bad) in self.features.items() if bad]
        lines += [f"  {example}" for example in self.examples]
        lines += [f"left out: {name}, which a schedule computes" for name in self.left_out]
        return "\n".join(lines)


_requests, _answers = msgspec.msgpack.Decoder(Asked), msgspec.msgpack.Decoder(dict[str, list[Any]])
Answer = dict[str, list[Any]]
"""By feature, what stands for the value at each entity and time: of numbers their bits, None for null."""
_Ask = Callable[[Asked], Answer]


def compare_sides(parts: Parts, sample: int | None) -> Compared:
    """Compare up to `sample` entities (None: all) of every group that runs in the stream, and of every table.

    Nothing has to stop. Raises NotFound if nothing runs beside, StoreError if the side beside does not catch up.
    """
    parts.refresh_side()
    sides = parts.sides
    other = sides.need_beside()
    found = Compared(sides.served.name, other.name)
    with beside_of(parts) as beside, ExitStack() as held:
        asks = [held.enter_context(_asking(side, parts)) for side in (sides.served, other)]
        chosen = _chosen(parts, beside, sample)
        for source, entities in chosen:
            if isinstance(source, GroupPlan) and _scheduled(parts, source):
                found.left_out.append(source.name)
                continue
            for start in range(0, len(entities), _AT_ONCE):
                _compare(parts, beside, source, entities[start : start + _AT_ONCE], asks, found)
    return found


def _chosen(parts: Parts, beside: Parts, sample: int | None) -> list[tuple[GroupPlan | TablePlan, list[list[Any]]]]:
    """The entities to compare: those of either store, or the same few of both."""
    plan = parts.plan
    sources: dict[str, GroupPlan | TablePlan] = {group.version: group for group in plan.computed_groups}
    sources |= {table.version: table for table in plan.tables.values()}
    by_end = {bytes.fromhex(version): version for version in sources}
    keys: dict[str, dict[bytes, int]] = {version: {} for version in sources}
    for store in (parts.online, beside.online):
        found: dict[str, list[tuple[int, bytes]]] = {version: [] for version in sources}
        for key, _ in store.scan():
            version = by_end.get(key[-_VERSION_BYTES:])
            if version is None or key.startswith(b"\xff\xff"):
                continue
            entity = key[:-_VERSION_BYTES]
            heap, rank = found[version], -zlib.crc32(entity)
            if sample is None or len(heap) < sample:
                heapq.heappush(heap, (rank, entity))
            elif rank > heap[0][0]:
                heapq.heapreplace(heap, (rank, entity))
        for version, some in found.items():
            keys[version].update({entity: rank for rank, entity in some})
    chosen = []
    for version, entities in keys.items():
        first = sorted(entities, key=lambda entity, of=entities: (-of[entity], entity))[:sample]  # type: ignore[misc]
        values = [list(parsed) for entity in first if (parsed := decode_entity(entity)) is not None]
        chosen.append((sources[version], values))
    return chosen


def _scheduled(parts: Parts, group: GroupPlan) -> bool:
    from headrace.app.lookups import group_view

    names = [binding.source for binding in group_view(group, parts.plan).bindings if not binding.is_table]
    return any(parts.plan.group(name).version in parts.plan.scheduled for name in [group.name, *names])


def _compare(
    parts: Parts, beside: Parts, source: GroupPlan | TablePlan, entities: list[list[Any]], asks: Sequence[_Ask],
    found: Compared,
) -> None:  # fmt: skip
    keys = _keys_of(parts, source, entities)
    ours, theirs = parts.online.read(keys), beside.online.read(keys)
    until = _later(decode_position(ours[1]), decode_position(theirs[1]))
    _wait(beside, until)
    raw = encode_position(until)
    one, other = (
        ask(Asked(source.name, entities, keys, records, since, raw, number == 1))
        for number, (ask, (records, since)) in enumerate(zip(asks, (ours, theirs), strict=True))
    )
    times = len(next(iter(one.values()), [])) // max(len(entities), 1)
    for name in one:
        at = f"{source.name}.{name}"
        tally = found.features.setdefault(at, [0, 0])
        for row, (a, b) in enumerate(zip(one[name], other[name], strict=True)):
            tally[0] += 1
            if msgspec.msgpack.encode(a) != msgspec.msgpack.encode(b):
                tally[1] += 1
                found.differing += 1
                if len(found.examples) < _EXAMPLES:
                    shown = [_shown(source, name, value) for value in (a, b)]
                    entity = dict(zip([p.name for p in source.key], entities[row // max(times, 1)], strict=True))
                    found.examples.append(f"{at} of {entity}: {found.served} {shown[0]}, {found.beside} {shown[1]}")
        found.compared += len(one[name])


def _keys_of(parts: Parts, source: GroupPlan | TablePlan, entities: list[list[Any]]) -> list[bytes]:
    """Keys of all records that are read for these entities: features may read other groups of the same key."""
    if isinstance(source, TablePlan):
        return _table_keys(source, entities)
    reader, request = _reader(parts, parts.scratch(), source, entities, [0])
    return list(reader.keys(request))


def _table_keys(table: TablePlan, entities: list[list[Any]]) -> list[bytes]:
    from headrace.core.keys import key_encoder

    encode = key_encoder([part.dtype for part in table.key], table.version)
    return [encode(tuple(values)) for values in entities]


def _reader(parts: Parts, store: Any, group: GroupPlan, entities: list[list[Any]], times: Sequence[int]) -> Any:
    from headrace.app.lookups import TIME, group_view
    from headrace.retrieval.online import OnlineReader

    reader = OnlineReader(group_view(group, parts.plan), parts.plan, store, horizon_us=parts.horizon_us)
    rows = [values for values in entities for _ in times]
    request = {p.name: column_of(p.dtype, [row[i] for row in rows]) for i, p in enumerate(group.key)}
    request[TIME] = column_of(DType.TIMESTAMP, [t for _ in entities for t in times])
    return reader, request


def _later(one: Position, other: Position) -> Position:
    """The first position that both have come to or are behind of: offsets mean the same on both sides."""
    ahead = one if one.windows >= other.windows else other
    return msgspec.structs.replace(ahead, tables=max(one.tables, other.tables))


def _wait(beside: Parts, until: Position) -> None:
    deadline = time.monotonic() + _WAIT_S
    while beside.features.end(WINDOWS, 0) < until.windows:
        if time.monotonic() > deadline:
            raise StoreError(
                f"the side beside stands at commit {beside.features.end(WINDOWS, 0):,}, what is served at "
                f"{until.windows:,}: it does not catch up; does it run? headrace beside start goes on with it"
            )
        time.sleep(0.02)


def _shown(source: GroupPlan | TablePlan, name: str, value: Any) -> Any:
    if isinstance(source, GroupPlan) and isinstance(value, int) and source.dtypes[name] is DType.FLOAT:
        return float(np.int64(value).view(np.float64))
    return value


def answer(parts: Parts, asked: Asked) -> Answer:
    """The values as this process's code reads them. `parts` are those of the side."""
    if asked.format != _FORMAT:
        raise StoreError(
            f"the other side asks in format {asked.format}, this version answers format {_FORMAT}: compare with the "
            "headrace of the newer side"
        )
    since, until = decode_position(asked.since), decode_position(asked.until)
    records = dict(zip(asked.keys, asked.records, strict=True))
    table = parts.plan.tables.get(asked.source)
    if table is not None:
        return _table_values(parts, table, asked, records, since, until)
    return _group_values(parts, parts.plan.group(asked.source), asked, records, since, until)


def _group_values(
    parts: Parts, group: GroupPlan, asked: Asked, records: dict[bytes, bytes | None], since: Position, until: Position
) -> Answer:
    from headrace.ingestion.reconcile import bring_up

    bring_up(
        parts.features, list(parts.plan.computed_groups), records, since, until, horizon_us=parts.horizon_us
    )  # fmt: skip
    store = parts.scratch()
    store.write(list(records.items()), asked.until)
    clock = until.clock_us.get(group.stream, 0)
    # All that is known, and what an answer of some minutes ago was made of.
    reader, request = _reader(parts, store, group, asked.entities, [clock + 1, clock - parts.horizon_us])
    block = reader.read(request)
    found: Answer = {}
    for index, name in enumerate(block.names):
        if name not in group.order:
            continue
        if name in block.objects:
            found[name] = block.objects[name].to_pylist()
        else:
            pairs = zip(block.words[:, index].tolist(), block.valid[:, index].tolist(), strict=True)
            found[name] = [word if valid else None for word, valid in pairs]
    return found


def _table_values(
    parts: Parts, table: TablePlan, asked: Asked, records: dict[bytes, bytes | None], since: Position, until: Position
) -> Answer:
    """By feature the value in every row that is held; `rows` are their times, orders and which are null."""
    from headrace.aggregations.table_records import decode_rows
    from headrace.ingestion.reconcile import bring_up

    bring_up(parts.features, table, records, since, until, horizon_us=parts.horizon_us)
    found: Answer = {"rows": [], **{field.name: [] for field in table.features}}
    for key in asked.keys:
        rows = decode_rows(records[key], len(table.features))
        found["rows"].append([[row.event_time_us, row.available_us, row.order, row.bits] for row in rows])
        tails = [iter(row.objects) for row in rows]
        for index, field in enumerate(table.features):
            tailed = field.dtype in (DType.STRING, DType.LIST)
            found[field.name].append([next(tail) if tailed else row.words[index] for row, tail in zip(rows, tails)])  # noqa: B905
    return found


@contextmanager
def _asking(side: Side, parts: Parts) -> Iterator[_Ask]:
    """What asks a side: this process if it runs the side's version, else one that does."""
    if side.interpreter == sys.executable:
        with ExitStack() as held:
            opened: list[Parts] = []

            def here(asked: Asked) -> Answer:
                if not opened:
                    opened.append(held.enter_context(beside_of(parts)) if asked.beside else parts)
                return answer(opened[0], asked)

            yield here
        return
    with _process(side, parts.settings) as process:
        to, back = process.stdin, process.stdout
        assert to is not None
        assert back is not None

        def there(asked: Asked) -> Answer:
            try:
                _send(to, msgspec.msgpack.encode(asked))
                data = _receive(back)
            except BrokenPipeError:
                data = None
            if data is None:
                process.wait()
                said = (process.stderr.read() if process.stderr is not None else b"").decode(errors="replace")
                last = said.strip().splitlines()[-1:] or ["it said nothing"]
                raise StoreError(f"side {side.name} (run by {side.interpreter}): {last[0]}")
            return _answers.decode(data)

        yield there


@contextmanager
def _process(side: Side, settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    environment = [] if settings.env == "default" else ["--env", settings.env]
    process = subprocess.Popen(
        [side.interpreter, "-m", "headrace", "beside", "answer", "--project", str(settings.folder), *environment],
        env={**os.environ, "HEADRACE_STATE": str(settings.state)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def answer_all(parts: Parts, asked: IO[bytes], to: IO[bytes]) -> None:
    """Answer what is asked until nothing comes any more."""
    with ExitStack() as held:
        of: dict[bool, Parts] = {False: parts}
        while (data := _receive(asked)) is not None:
            one = _requests.decode(data)
            if one.beside not in of:
                of[one.beside] = held.enter_context(beside_of(parts))
            _send(to, msgspec.msgpack.encode(answer(of[one.beside], one)))


def _send(to: IO[bytes], data: bytes) -> None:
    to.write(_length.pack(len(data)))
    to.write(data)
    to.flush()


def _receive(source: IO[bytes]) -> bytes | None:
    head = source.read(_length.size)
    if len(head) < _length.size:
        return None
    size = int(_length.unpack(head)[0])
    data = source.read(size)
    return data if len(data) == size else None
