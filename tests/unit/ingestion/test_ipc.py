"""Streams of Arrow from anywhere: what another writer made is read as it is, what is damaged is refused."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.core.errors import SchemaError
from headrace.core.events import decode_block
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import SimulatedClock
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.plan import StreamPlan
from headrace.ingestion.ipc import read_ipc
from headrace.ingestion.publisher import Publisher

SCHEMA = Schema(
    "visit",
    (
        Field("user", DType.STRING),
        Field("amount", DType.FLOAT, nullable=True),
        Field("at", DType.TIMESTAMP),
    ),
    "at",
)
ROWS = pa.table(
    {
        "user": pa.array(["ß", "", "u3"]).dictionary_encode(),
        "amount": pa.array([0.1, None, 5e-324]),
        "at": pa.array([1, 2, 3], pa.timestamp("us", "UTC")),
    }
)


def stream_of(table: pa.Table, rows: int | None = None, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def test_batches_of_another_writer_are_published_as_they_are() -> None:
    log = MemoryEventLog(SimulatedClock(10))
    publisher = Publisher(log, {"visit": StreamPlan("visit", SCHEMA)})
    receipt = publisher.publish("visit", stream_of(ROWS, rows=2))
    assert (receipt.appended, receipt.malformed, receipt.offsets) == (3, 0, {0: (0, 2)})
    (batch,) = log.read("visit", 0, 0)
    columns = decode_block(batch.payload, SCHEMA).columns
    assert columns["user"].to_pylist() == ["ß", "", "u3"]
    assert columns["amount"].to_pylist() == [0.1, None, 5e-324]
    assert np.asarray(columns["at"].values).tolist() == [1, 2, 3]
    assert publisher.publish("visit", stream_of(ROWS.slice(0, 0))).appended == 0
    with pytest.raises(SchemaError, match='lacks the column "at"'):
        publisher.publish("visit", stream_of(ROWS.drop_columns(["at"])))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (stream_of(ROWS, compression="zstd"), "compressed"),
        (stream_of(ROWS, compression="lz4"), "compressed"),
        (stream_of(ROWS)[:-8], "no end"),
        (stream_of(ROWS)[:300], "cut short"),
        (b"\xff\xff\xff\xff", "cut short"),
        (b"\xff\xff\xff\xff\x10\0\0\0" + b"\xff" * 16, "damaged"),
        (stream_of(pa.table({"user": pa.nulls(10**9)})), "1,000,000,000 rows, more than its bytes can hold"),
    ],
    ids=["zstd", "lz4", "no end", "cut", "nothing", "noise", "claims"],
)
def test_what_could_do_harm_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(SchemaError, match=told):
        read_ipc(body, "visit")


def test_damage_anywhere_is_told_or_gives_a_valid_table() -> None:
    body, rng = stream_of(ROWS, rows=2), random.Random(7)
    refused = 0
    for _ in range(500):
        damaged = bytearray(body)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            read_ipc(bytes(damaged), "visit").validate(full=True)
        except SchemaError:
            refused += 1
    assert refused > 100
