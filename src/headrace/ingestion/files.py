"""Event files become blocks of events, a piece at a time: Parquet, CSV, NDJSON, JSON and Arrow.

Memory stays bounded by a piece (a JSON array alone is read whole). What can be told before the first event is handed
over is told before it: an empty file, a footer or a last line that is missing, a name that does not fit the content.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from headrace.core.errors import InputFileError, SchemaError
from headrace.core.events import EventBlock
from headrace.core.rows import RowEncoder
from headrace.core.schema import Schema
from headrace.ingestion.csv_events import read_csv
from headrace.ingestion.frames import check_names, current_names, encode_arrow

ROWS_PER_BLOCK = 50_000
_CHUNK = 4 << 20
_TAIL = 64 << 10


def read_event_file(path: str | Path, schema: Schema) -> Iterator[EventBlock]:
    """Blocks of the events in a file, in file order.

    The name says the format: .parquet, .csv, .ndjson or .jsonl, .json (an array, an object or lines), .arrow or
    .feather; the text formats also with .gz. Rows that do not fit become malformed rows. Raises InputFileError (file,
    what was expected, and the row where known) if the file is missing, empty, cut short or not what its name says.
    """
    path = Path(path)
    reader = _READERS.get(_format_of(path))
    if reader is None:
        raise InputFileError(
            f"{path}: unknown kind of file; name it {', '.join(sorted(_READERS))} (text also with .gz)"
        )
    try:
        if path.stat().st_size == 0:
            raise InputFileError(f"{path}: the file is empty; expected events of {schema.name}")
        if path.suffix == ".gz":
            _check_gzip(path)
        yield from reader(path, schema)
    except FileNotFoundError:
        raise InputFileError(f"{path}: there is no such file") from None
    except InputFileError:
        raise
    except SchemaError as error:
        raise InputFileError(f"{path}: {error}", field=error.field) from None


def _format_of(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        return suffixes[-2] if len(suffixes) > 1 and suffixes[-2] in _TEXT else ".gz"
    return suffixes[-1] if suffixes else ""


def _check_gzip(path: Path) -> None:
    try:
        with gzip.open(path) as stream:
            if not stream.read(1):
                raise InputFileError(f"{path}: the file is empty; nothing is in the gzip stream")
            while stream.read(_CHUNK):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputFileError(f"{path}: expected a whole gzip file; it is cut short or damaged: {error}") from None


def open_text(path: Path) -> IO[bytes]:
    """The bytes of a text file, unpacked if its name ends in .gz."""
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _read_parquet(path: Path, schema: Schema) -> Iterator[EventBlock]:
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows == 0:
                raise InputFileError(f"{path}: the file holds no rows; expected events of {schema.name}")
            check_names(schema, current_names(schema, file.schema_arrow.names))
            for batch in file.iter_batches(batch_size=ROWS_PER_BLOCK):
                block = encode_arrow(schema, batch)
                row += block.n
                yield block
    except (pa.ArrowInvalid, OSError) as error:
        _reraise_missing(error)
        where = f" after row {row}" if row else ""
        raise InputFileError(
            f"{path}: expected a whole Parquet file; it is cut short, damaged or no Parquet{where}: {error}"
        ) from None


def _read_arrow(path: Path, schema: Schema) -> Iterator[EventBlock]:
    row = 0
    try:
        with pa.memory_map(str(path)) as source:
            for batch in _arrow_batches(source):
                for start in range(0, batch.num_rows, ROWS_PER_BLOCK):
                    block = encode_arrow(schema, batch.slice(start, ROWS_PER_BLOCK))
                    row += block.n
                    yield block
    except (pa.ArrowInvalid, OSError) as error:
        _reraise_missing(error)
        where = f" after row {row}" if row else ""
        raise InputFileError(
            f"{path}: expected a whole Arrow file; it is cut short, damaged or no Arrow IPC{where}: {error}"
        ) from None
    if not row:
        raise InputFileError(f"{path}: the file holds no rows; expected events of {schema.name}")


def _arrow_batches(source: Any) -> Iterator[pa.RecordBatch]:
    if source.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
        return
    source.seek(0)
    yield from pa.ipc.open_stream(source)


def _reraise_missing(error: Exception) -> None:
    if isinstance(error, FileNotFoundError):
        raise error


def _read_json(path: Path, schema: Schema) -> Iterator[EventBlock]:
    with open_text(path) as stream:
        head = stream.read(_CHUNK).lstrip()
    if head[:1] != b"[" and _is_json(head.split(b"\n", 1)[0]):
        yield from _read_lines(path, schema)
        return
    with open_text(path) as stream:
        block = RowEncoder(schema).json(stream.read())
    if not block.n:
        raise InputFileError(f"{path}: the file holds no rows; expected events of {schema.name}")
    for start in range(0, block.n, ROWS_PER_BLOCK):
        yield block if block.n <= ROWS_PER_BLOCK else block.slice(start, min(start + ROWS_PER_BLOCK, block.n))


def _read_lines(path: Path, schema: Schema) -> Iterator[EventBlock]:
    last = last_line(path)
    if last and not _is_json(last):
        raise InputFileError(
            f"{path}: the file is cut short: row {count_rows(path)} is no whole JSON object and has no line end"
        )
    encoder, row = RowEncoder(schema), 0
    for piece in _pieces(path):
        try:
            block = encoder.json(piece)
        except SchemaError as error:
            raise InputFileError(f"{path}: expected one JSON object per line at row {row + 1}: {error}") from None
        row += block.n
        yield block
    if not row:
        raise InputFileError(f"{path}: the file holds no rows; expected events of {schema.name}")


def _pieces(path: Path) -> Iterator[bytes]:
    """Whole lines, a few MiB at a time; pieces of blank lines only are left out."""
    rest = b""
    with open_text(path) as stream:
        while chunk := stream.read(_CHUNK):
            cut = chunk.rfind(b"\n") + 1
            if cut == 0:
                rest += chunk
                continue
            piece, rest = rest + chunk[:cut], chunk[cut:]
            if piece.strip():
                yield piece
    if rest.strip():
        yield rest


def last_line(path: Path) -> bytes:
    """What stands after the last line end, up to 64 KiB; empty if the file ends with one."""
    if path.suffix != ".gz":
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL))
            tail = stream.read()
    else:
        tail = b""
        with open_text(path) as stream:
            while chunk := stream.read(_CHUNK):
                tail = (tail + chunk)[-_TAIL:]
    return tail[tail.rfind(b"\n") + 1 :].strip()


def count_rows(path: Path) -> int:
    """Number of lines, the last one without line end included."""
    lines = 0
    with open_text(path) as stream:
        while chunk := stream.read(_CHUNK):
            lines += chunk.count(b"\n")
    return lines + 1


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _read_csv(path: Path, schema: Schema) -> Iterator[EventBlock]:
    yield from read_csv(path, schema, open_text, last_line(path), lambda: count_rows(path) - 1)


_TEXT = (".csv", ".json", ".jsonl", ".ndjson")
_READERS: dict[str, Callable[[Path, Schema], Iterator[EventBlock]]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".ndjson": _read_lines,
    ".jsonl": _read_lines,
    ".json": _read_json,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
}


__all__ = ["ROWS_PER_BLOCK", "read_event_file"]
