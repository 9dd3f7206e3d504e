"""Event files: every format gives the same events; what is empty, cut short or misnamed is refused by name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from headrace.core.errors import InputFileError
from headrace.core.events import EventBlock
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import SimulatedClock
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.plan import StreamPlan
from headrace.ingestion import files
from headrace.ingestion.publisher import Publisher, PublishReceipt, read_event_file

SCHEMA = Schema(
    "visit",
    (
        Field("visit_id", DType.INT),
        Field("page", DType.STRING, entity="page"),
        Field("seconds", DType.FLOAT, nullable=True),
        Field("paid", DType.BOOL, nullable=True),
        Field("spot", DType.LIST, nullable=True, size=2),
        Field("at", DType.TIMESTAMP),
    ),
    "at",
    "visit_id",
)
N = 7
ROWS: list[dict[str, Any]] = [
    {
        "visit_id": i,
        "page": f"p,{i}" if i else 'two\n"lines"',
        "seconds": None if i == 3 else i / 4,
        "paid": None if i == 4 else i % 2 == 0,
        "spot": None if i == 5 else [float(i), 0.5],
        "at": 1_357_034_400_000_000 + i,
    }
    for i in range(N)
]
TABLE = pa.Table.from_pylist(
    ROWS,
    pa.schema(
        [
            ("visit_id", pa.int64()),
            ("page", pa.string()),
            ("seconds", pa.float64()),
            ("paid", pa.bool_()),
            ("spot", pa.list_(pa.float64())),
            ("at", pa.timestamp("us", "UTC")),
        ]
    ),
)


def csv_text(rows: list[dict[str, Any]]) -> str:
    def cell(value: Any) -> str:
        text = json.dumps(value) if isinstance(value, list | bool) else "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text

    lines = [",".join(rows[0]), *[",".join(cell(value) for value in row.values()) for row in rows]]
    return "\n".join(lines) + "\n"


def lines_text(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(folder: Path, name: str) -> Path:
    path = folder / name
    text = {".csv": csv_text, ".json": json.dumps, ".ndjson": lines_text, ".jsonl": lines_text}
    kind = name.removesuffix(".gz").removeprefix("visits")
    if kind == ".parquet":
        pq.write_table(TABLE, path, row_group_size=2)
    elif kind == ".feather":
        feather.write_feather(TABLE, path, chunksize=2)
    elif kind == ".arrow":
        with pa.ipc.new_stream(path, TABLE.schema) as sink:
            sink.write_table(TABLE, max_chunksize=3)
    else:
        body = text[kind](ROWS).encode()
        path.write_bytes(gzip.compress(body) if name.endswith(".gz") else body)
    return path


NAMES = [
    "visits" + kind for kind in (".parquet", ".feather", ".arrow", ".csv", ".csv.gz", ".json", ".ndjson", ".jsonl.gz")
]


def events(blocks: list[EventBlock]) -> list[dict[str, Any]]:
    out = []
    for block in blocks:
        lists = {name: column.to_pylist() for name, column in block.columns.items()}
        out += [{name: values[i] for name, values in lists.items()} for i in range(block.n)]
    return out


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_events(tmp_path: Path, name: str) -> None:
    blocks = list(read_event_file(write(tmp_path, name), SCHEMA))
    assert all(block.malformed == [] for block in blocks)
    assert events(blocks) == ROWS


@pytest.mark.parametrize("name", NAMES)
def test_pieces_are_small_and_nothing_is_lost_between_them(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, name)
    monkeypatch.setattr(files, "ROWS_PER_BLOCK", 2)
    monkeypatch.setattr(files, "_CHUNK", 50)
    blocks = list(read_event_file(str(path), SCHEMA))
    assert events(blocks) == ROWS
    if ".csv" not in name:
        assert max(block.n for block in blocks) <= 3


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    with pytest.raises(InputFileError, match="empty") as caught:
        list(read_event_file(path, SCHEMA))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_short_is_refused_before_any_event(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30] if name == "visits.csv" else whole[: -(len(whole) // 3) - 8])
    seen: list[EventBlock] = []
    with pytest.raises(InputFileError) as caught:
        seen.extend(read_event_file(path, SCHEMA))
    assert str(path) in str(caught.value)
    if name != "visits.arrow":  # a stream has no footer: its end shows only when it is reached
        assert seen == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "content", [b"\x00\x01\x02 not what it says \xff\xfe" * 9, b"PK\x03\x04zip", b"hello, world\n"]
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputFileError) as caught:
        list(read_event_file(path, SCHEMA))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["visits.parquet", "visits.csv", "visits.json", "visits.ndjson", "visits.feather"])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "visits.parquet":
        pq.write_table(TABLE.slice(0, 0), path)
    elif name == "visits.feather":
        feather.write_feather(TABLE.slice(0, 0), path)
    else:
        path.write_text({"csv": "visit_id,page,at\n", "json": "[]", "ndjson": "\n \n"}[name.split(".")[1]])
    with pytest.raises(InputFileError, match="no rows"):
        list(read_event_file(path, SCHEMA))


def test_the_row_where_lines_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "visits.ndjson"
    path.write_text(lines_text(ROWS) + '{"visit_id": 8, "pa')
    with pytest.raises(InputFileError, match="row 8"):
        list(read_event_file(path, SCHEMA))
    path = tmp_path / "visits.csv"
    path.write_text("visit_id,page,at\n1,a,5\n2,b")
    with pytest.raises(InputFileError, match="row 2"):
        list(read_event_file(path, SCHEMA))


def test_missing_and_unknown_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    path.write_text("visit_id,pge,at\n1,a,5\n")
    with pytest.raises(InputFileError, match=r'"page".*"pge"'):
        list(read_event_file(path, SCHEMA))
    pq.write_table(TABLE.append_column("more", pa.array(range(N))), tmp_path / "visits.parquet")
    with pytest.raises(InputFileError, match='"more"'):
        list(read_event_file(tmp_path / "visits.parquet", SCHEMA))


def test_bad_cells_and_ragged_lines_cost_one_row_each(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    lines = [
        "visit_id,page,seconds,paid,spot,at",
        "1,a,1.5,true,,2013-01-01T10:00:00Z",
        "x,b,1.5,true,,2013-01-01",
        "3,c,1_5,true,,2013-01-01",
        "4,d,NA,maybe,,2013-01-01",
        "5,e,inf,true,,2013-01-01",
        "6,f,1,true,[1],2013-01-01",
        "7,g,1,true,oops,2013-01-01",
        "8,h,1,true,,soon",
        "9,i,1,true",
        "10,,1,true,,2013-01-01",
        "11,k,1e3,0,,2013-01-01T00:00:00.123456789+01:00",
    ]
    path.write_text("\n".join(lines) + "\n")
    blocks = list(read_event_file(path, SCHEMA))
    bad = {m.field for block in blocks for m in block.malformed}
    assert bad == {"visit_id", "seconds", "paid", "spot", "at", "page", ""}
    good = [event for event in events(blocks) if event["visit_id"] is not None]
    assert [event["visit_id"] for event in good] == [1, 11]
    assert good[1]["at"] == 1_356_994_800_123_456
    assert (good[1]["seconds"], good[1]["paid"]) == (1000.0, False)
    assert sum(block.n for block in blocks) == len(lines) - 1
    payloads = [m.payload for block in blocks for m in block.malformed]
    assert b'"9,i,1,true"' in payloads


def test_an_unknown_kind_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "visits.xlsx").write_bytes(b"x")
    with pytest.raises(InputFileError, match=r"\.parquet"):
        list(read_event_file(tmp_path / "visits.xlsx", SCHEMA))
    with pytest.raises(InputFileError, match="no such file"):
        list(read_event_file(tmp_path / "visits.csv", SCHEMA))


def test_one_json_object_over_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "visits.json"
    path.write_text(json.dumps(ROWS[1], indent=2))
    assert events(list(read_event_file(path, SCHEMA))) == ROWS[1:2]


def test_publishing_a_file_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROWS_PER_BLOCK", 3)
    log = MemoryEventLog(SimulatedClock(1))
    publisher = Publisher(log, {"visit": StreamPlan("visit", SCHEMA)})
    seen: list[PublishReceipt] = []
    total = publisher.publish_file("visit", write(tmp_path, "visits.parquet"), seen.append)
    assert [receipt.appended for receipt in seen] == [3, 6, 7]
    assert (total.appended, total.offsets, log.end("visit", 0)) == (7, {0: (0, 6)}, 7)
