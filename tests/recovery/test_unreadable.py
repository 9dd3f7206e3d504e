"""Batches of raw topics that cannot be read: a dead letter with the bytes, all else as if their events were malformed.

What counted once is never left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from headrace.core.columns import column_of, nulls
from headrace.core.errors import LogError, SchemaError
from headrace.core.events import EventBlock, Malformed, decode_block, decode_joined, encode_block
from headrace.core.rows import encode_rows
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import US_PER_HOUR
from headrace.core.unreadable import kept_of
from headrace.engines.stream.commits import DEAD_LETTERS, WINDOWS, DeadLetter, decode_dead_letters
from headrace.eventlog.base import Append, EventLog
from headrace.eventlog.lmdb import LmdbEventLog
from headrace.eventlog.spoilt import spoilt_events
from headrace.retrieval.past import events_table
from tests.recovery.shop import ORDER, PROJECT, Shop, deeds, publish

pack = msgspec.msgpack.encode
NAMES = [field.name for field in ORDER.schema]


def rows(n: int, name: str = "whole") -> list[dict[str, Any]]:
    """Orders that fit."""
    at = 2 * US_PER_HOUR
    return [
        {"order_id": f"{name}{i}", "user": f"u{i % 3}", "amount": 0.5 * i, "items": i, "at": at + i} for i in range(n)
    ]


def changed(n: int = 3, **columns: object) -> bytes:
    """A block of orders with other contents in some columns, which `encode_block` would not write."""
    version, count, packed, bad = msgspec.msgpack.decode(encode_block(encode_rows(ORDER.schema, rows(n))))
    return pack([version, count, packed | columns, bad])


UNREADABLE = {
    "nothing": b"",
    "no MessagePack": b"\xc1garbage",
    "cut short": encode_block(encode_rows(ORDER.schema, rows(3)))[:-9],
    "JSON": b'[{"order_id": "x", "amount": 1}]',
    "another list": pack([2, 3]),
    "fewer events": encode_block(encode_rows(ORDER.schema, rows(2))),
    "more events": encode_block(encode_rows(ORDER.schema, rows(4))),
    "a number that is a text": changed(items=[1, "2", 3]),
    "an unused column that is no column": changed(order_id=7),
    "texts for times": changed(at=["a", "b", "c"]),
    "an int beyond int64": changed(items=[1, 2**63, 3]),
    "a short column": changed(amount=[1.0]),
    "bytes of another length": changed(amount=b"12345678"),
    "floats for ints": changed(items=b"12345678" * 3),
    "ints of an unknown type": changed(items=msgspec.msgpack.Ext(5, b"12345678" * 3)),
    "a row that is not there": pack([2, 3, {}, [[3, "amount", "infinite", b"{}"]]]),
    "messages that are none": pack([3, 3, True, 5, []]),
    "a format of the past": pack([1, 3, {}, []]),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_batch_that_cannot_be_read_is_one_letter_and_the_rest_is_as_if_it_were_malformed(
    tmp_path: Path, name: str
) -> None:
    """The oracle is a shop in whose log a well-formed block of malformed rows stands at the same place."""
    payload = UNREADABLE[name]
    bad = [Malformed(row, "", "anything", b"") for row in range(3)]
    malformed = encode_block(EventBlock(3, {field.name: nulls(field.dtype, 3) for field in ORDER.schema}, bad))
    found, wanted = (Shop(tmp_path / part) for part in ("found", "wanted"))
    for shop, stored in ((found, payload), (wanted, malformed)):
        for number, deed in enumerate(deeds(20130301, 6)):
            deed(shop)
            if number == 7:
                [base] = shop.raw.append([Append("order", 0, stored, 3)])
        drain(shop.compute().step)
        drain(shop.archive().step)
    assert commits(found) == commits(wanted)
    assert archived(found) == archived(wanted)
    letters = [letter for letter in letters_of(found) if base <= letter.offset < base + 3 and letter.stream == "order"]
    (letter,) = letters
    assert letter.offset == base
    assert letter.reason.startswith("this offset, and the next 2 offsets, cannot be read as a block of events: ")
    assert len(letter.reason) < 300
    assert (kept_of(letter.payload).events, kept_of(letter.payload).sent) == (3, payload)
    # Whoever starts again, with and without a checkpoint, goes on from there.
    publish(found, ORDER, 3 * US_PER_HOUR, rows(4, "later"))
    publish(wanted, ORDER, 3 * US_PER_HOUR, rows(4, "later"))
    for shop in (found, wanted):
        assert shop.compute().step() == 4
    assert commits(found) == commits(wanted)
    found.close()
    wanted.close()


def test_a_later_format_stops_and_loses_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.raw.append([Append("order", 0, pack([9, 3, {}, [], "what a later version adds"]), 3)])
    for _ in range(2):
        with pytest.raises(LogError, match=r"offset 0: .* has format 9; .* use the version of headrace that wrote it"):
            shop.compute().step()
    assert shop.features.end(DEAD_LETTERS, 0) == 0
    shop.close()


def test_whatever_is_left_out_a_block_is_readable_or_not() -> None:
    """A verdict may not depend on which columns a group happens to read."""
    for payload in UNREADABLE.values():
        for only in (None, set(), {"at"}, {"items"}):
            assert len(decode_block(payload, ORDER.schema, only, count=3).malformed) == 3
        assert len(decode_joined([payload, changed()], ORDER.schema, counts=[3, 3]).malformed) == 3


def test_what_headrace_writes_is_readable() -> None:
    """Every type, short and long columns, with nulls and without, ints that have become floats, lists."""
    kinds = {
        DType.INT: [0, -(2**63), 2**63 - 1], DType.FLOAT: [0.0, -1e308, 5e-324], DType.BOOL: [True, False, True],
        DType.STRING: ["", "é", "x" * 100], DType.TIMESTAMP: [0, -1, 2**50], DType.DURATION: [0, 1, -5],
        DType.LIST: [[0.5, None], [1.0, 2.0], [-0.0, 3.5]],
    }  # fmt: skip
    for n in (3, 99):
        for nullable in (False, True):
            columns, fields = {}, []
            for dtype, values in kinds.items():
                items = (values * n)[:n]
                columns[dtype.value] = column_of(dtype, [*items[:-1], None] if nullable else items)
                size = 2 if dtype is DType.LIST else None
                fields.append(Field(dtype.value, dtype, nullable, size=size))
            schema = Schema("all", tuple(fields), None)
            found = decode_block(encode_block(EventBlock(n, columns)), schema, count=n)
            assert found.malformed == []
            for name, column in columns.items():
                assert str(found.columns[name].to_pylist()) == str(column.to_pylist())
    ints = encode_block(EventBlock(99, {"x": column_of(DType.INT, list(range(99)))}))
    floats = decode_block(ints, Schema("s", (Field("x", DType.FLOAT),), None), count=99)
    assert floats.malformed == []
    assert np.array_equal(floats.columns["x"].values, np.arange(99.0))


class SpoiltShop(Shop):
    """A shop whose log of raw events is opened as a project opens it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.raw.close()
        self.raw = self.open()

    def open(self) -> LmdbEventLog:
        return LmdbEventLog(self.folder / "raw", self.clock, sync=False, spoilt=spoilt_events(PROJECT.streams))

    def spoil(self, text: bytes, into: bytes) -> None:
        """Change bytes on the disk behind everybody's back; also where older versions of a page lie."""
        self.raw.sync()
        self.raw.close()
        file = self.folder / "raw" / "data.mdb"
        held = file.read_bytes()
        assert text in held
        assert len(text) == len(into)
        file.write_bytes(re.sub(re.escape(text), into, held))
        self.raw = self.open()


def spoilt(folder: Path, *, when: str) -> tuple[SpoiltShop, int]:
    """A shop with a batch of 3 orders spoilt before or after it was computed, and its offset."""
    shop = SpoiltShop(folder)
    publish(shop, ORDER, 2 * US_PER_HOUR, rows(5, "before"))
    if when == "after":
        drain(shop.compute().step)
    publish(shop, ORDER, 2 * US_PER_HOUR + 1, rows(3, "spoilme"))
    if when == "after":
        drain(shop.compute().step)
    # Still a block of orders, and one that would be believed.
    shop.spoil(b"spoilme1", b"spoilXe1")
    return shop, 5


def test_bytes_that_a_disk_has_spoilt_are_a_letter_even_where_they_can_be_read(tmp_path: Path) -> None:
    shop, base = spoilt(tmp_path, when="before")
    publish(shop, ORDER, 3 * US_PER_HOUR, rows(2, "after"))
    drain(shop.compute().step)
    (letter,) = letters_of(shop)
    assert (letter.offset, letter.stream) == (base, "order")
    assert "checksum differs" in letter.reason
    assert kept_of(letter.payload).spoilt
    assert b"spoilXe1" in (kept_of(letter.payload).sent or b"")
    drain(shop.archive().step)
    assert [offset for offset, _, _ in archived(shop)] == [0, 1, 2, 3, 4, 8, 9]
    shop.close()


def test_what_was_computed_and_is_spoilt_then_is_not_left_out(tmp_path: Path) -> None:
    shop, base = spoilt(tmp_path, when="after")
    publish(shop, ORDER, 3 * US_PER_HOUR, rows(2, "after"))
    before = commits(shop)
    works: Sequence[Callable[[], object]] = (lambda: shop.compute().step(), lambda: shop.archive().step())
    for work in works:
        for _ in range(2):
            with pytest.raises(
                LogError, match=f"offset {base}: this event was computed, and cannot .* restore the log"
            ):
                work()
    assert commits(shop) == before
    assert archived(shop) == []
    shop.spoil(b"spoilXe1", b"spoilme1")
    for work in works:
        work()
    assert [offset for offset, _, _ in archived(shop)] == list(range(10))
    shop.close()


def test_a_verdict_stands_when_the_bytes_are_mended(tmp_path: Path) -> None:
    """Else the ids of a mended batch would be taken for counted, and its events, published again, for duplicates."""
    shop, _ = spoilt(tmp_path, when="before")
    drain(shop.compute().step)
    shop.spoil(b"spoilXe1", b"spoilme1")
    publish(shop, ORDER, 3 * US_PER_HOUR, rows(3, "spoilme"))
    worker = shop.compute()
    assert worker.step() == 3
    assert worker.counted == 3
    drain(shop.archive().step)
    verdicts = {offset: verdict for offset, _, verdict in archived(shop)}
    assert [verdicts[offset] for offset in (0, 8, 9, 10)] == [0, 0, 0, 0]
    assert all(verdicts.get(offset, 3) == 3 for offset in (5, 6, 7))
    shop.close()


def test_no_batch_of_other_topics_is_left_out(tmp_path: Path) -> None:
    shop = SpoiltShop(tmp_path)
    shop.raw.create("other")
    shop.raw.append([Append("other", 0, b"some long text", 2)])
    shop.spoil(b"long", b"lang")
    with pytest.raises(LogError, match="offset 0 of other/0 is damaged"):
        shop.raw.read("other", 0, 0)
    shop.close()


def test_a_letter_of_something_else_keeps_no_bytes() -> None:
    with pytest.raises(SchemaError, match="keeps no bytes"):
        kept_of(b'{"amount": 5}')


def drain(step: Callable[[], int]) -> None:
    while step():
        pass


def batches(log: EventLog, topic: str) -> list[bytes]:
    return [batch.payload for batch in log.read(topic, 0, 0, 10**6)]


def commits(shop: Shop) -> list[bytes]:
    return batches(shop.features, WINDOWS)


def letters_of(shop: Shop) -> list[DeadLetter]:
    return [one for payload in batches(shop.features, DEAD_LETTERS) for one in decode_dead_letters(payload)]


def archived(shop: Shop) -> list[tuple[int, Any, int]]:
    """Offset, id and verdict of every archived order."""
    store, table = shop.offline(), events_table("order")
    if table not in store.tables():
        return []
    found = store.scan(table).sort_by("_offset").to_pydict()
    return list(zip(found["_offset"], found["order_id"], found["_verdict"], strict=True))
