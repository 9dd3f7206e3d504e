"""CSV event files: every column is read as text and then fitted to its field, so that one bad cell costs one row."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv

from headrace.core.columns import column_of, nulls
from headrace.core.errors import InputFileError
from headrace.core.events import EventBlock, Malformed, concat_blocks
from headrace.core.fitting import Fitted, fit_column
from headrace.core.schema import DType, Field, Schema
from headrace.core.values import payload_of
from headrace.ingestion.frames import block_of, check_names, current_names, required

_BLOCK_BYTES = 4 << 20
_NO_NUMBER = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
_MICROSECONDS = r"^-?[0-9]{12,18}$"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d+")


def read_csv(
    path: Path,
    schema: Schema,
    open_bytes: Callable[[Path], IO[bytes]],
    last_line: bytes,
    count_rows: Callable[[], int],
) -> Iterator[EventBlock]:
    """Blocks of a CSV file with a header line.

    An empty cell is null; in a column of numbers or times so are NA, NaN and null. Lists are JSON arrays; times ISO
    8601 or int µs. A line with too few or too many cells is a malformed row. Raises InputFileError for a file without
    rows, without the columns of the schema, or cut short.
    """
    header = _header(path, open_bytes)
    names = current_names(schema, header)
    check_names(schema, names)
    if last_line and not _is_whole(last_line, names, schema):
        raise InputFileError(
            f"{path}: the file is cut short: row {count_rows()} does not fit and has no line end "
            "(if nothing is missing, correct the row and end it)"
        )
    ragged: list[pc_csv.InvalidRow] = []

    def keep(row: pc_csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    rows = 0
    try:
        with open_bytes(path) as stream:
            for batch in _batches(stream, header, keep):
                block = _block(pa.Table.from_batches([batch]).rename_columns(names), schema)
                if ragged:
                    block = concat_blocks([block, _ragged_block(ragged, schema)])
                    ragged.clear()
                rows += block.n
                if block.n:
                    yield block
    except (pa.ArrowInvalid, OSError) as error:
        raise InputFileError(f"{path}: expected CSV text; after row {rows}: {error}") from None
    if ragged:
        rows += len(ragged)
        yield _ragged_block(ragged, schema)
    if not rows:
        raise InputFileError(f"{path}: the file has a header and no rows; expected events of {schema.name}")


def _batches(stream: IO[bytes], names: list[str], keep: Callable[[Any], str]) -> Iterator[pa.RecordBatch]:
    yield from pc_csv.open_csv(
        stream,
        read_options=pc_csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
        parse_options=pc_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep),
        convert_options=pc_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _header(path: Path, open_bytes: Callable[[Path], IO[bytes]]) -> list[str]:
    with open_bytes(path) as stream:
        line = stream.readline(1 << 20)
    try:
        return next(csv.reader([line.decode("utf-8-sig")]))
    except (UnicodeDecodeError, csv.Error, StopIteration):
        raise InputFileError(f"{path}: expected CSV; its first line is no header of column names") from None


def _is_whole(line: bytes, names: list[str], schema: Schema) -> bool:
    """True if a last line that nothing ends has all its cells, and each fits its field."""
    cells = next(csv.reader([line.decode("utf-8", "replace")]), [])
    if len(cells) != len(names) or line.count(b'"') % 2:
        return False
    row = {name: pa.array([cell or None], pa.string()) for name, cell in zip(names, cells, strict=True)}
    return not _block(pa.table(row), schema).malformed


def _block(table: pa.Table, schema: Schema) -> EventBlock:
    fitted = {}
    for spec in schema:
        if spec.name in table.column_names:
            fitted[spec.name] = _fit_text(table.column(spec.name).combine_chunks(), required(spec, schema))
        elif spec.has_default:
            fitted[spec.name] = Fitted(column_of(spec.dtype, [spec.default] * table.num_rows))
        else:
            fitted[spec.name] = Fitted(nulls(spec.dtype, table.num_rows))
    return block_of(table, fitted)


def _fit_text(texts: pa.Array, spec: Field) -> Fitted:
    where = "the file"
    if spec.dtype is DType.STRING:
        return fit_column(texts, spec, where)
    texts = pc.if_else(pc.is_in(texts, pa.array(_NO_NUMBER)), None, texts)
    if spec.dtype is DType.TIMESTAMP:
        as_numbers = pc.all(pc.match_substring_regex(texts, _MICROSECONDS)).as_py()
        return fit_column(texts.cast(pa.int64()) if as_numbers else texts, spec, where)
    arrow_type, parse = _PARSERS[spec.dtype]
    try:
        if parse is _list_of:
            raise pa.ArrowInvalid
        return fit_column(texts.cast(arrow_type), spec, where)
    except pa.ArrowInvalid:
        return _one_by_one(texts, arrow_type, parse, spec)


def _one_by_one(texts: pa.Array, arrow_type: pa.DataType, parse: Callable[[str], Any], spec: Field) -> Fitted:
    items: list[Any] = []
    misfits: dict[int, str] = {}
    for row, text in enumerate(texts.to_pylist()):
        try:
            items.append(None if text is None else parse(text.strip()))
        except (ValueError, KeyError, OverflowError):
            misfits[row] = f"expected {spec.dtype.value}, got {json.dumps(text)[:60]}"
            items.append(None)
    fitted = fit_column(pa.array(items, arrow_type), spec, "the file")
    fitted.misfits = fitted.misfits | misfits
    return fitted


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text) or not -(2**63) <= int(text) < 2**63:
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    if text.lower().lstrip("+-") in ("inf", "infinity"):
        return float(text)
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return float(text)


def _truth(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


def _list_of(text: str) -> list[float]:
    items = json.loads(text)
    if not isinstance(items, list) or not all(item is None or type(item) in (int, float) for item in items):
        raise ValueError(text)
    return [None if item is None else float(item) for item in items]  # type: ignore[misc]


_PARSERS: dict[DType, tuple[pa.DataType, Callable[[str], Any]]] = {
    DType.INT: (pa.int64(), _integer),
    DType.FLOAT: (pa.float64(), _number),
    DType.BOOL: (pa.bool_(), _truth),
    DType.DURATION: (pa.int64(), _integer),
    DType.LIST: (pa.list_(pa.float64()), _list_of),
}


def _ragged_block(rows: list[Any], schema: Schema) -> EventBlock:
    malformed = [
        Malformed(index, "", f"the line has {row.actual_columns} cells, the header {row.expected_columns}",
                  payload_of(row.text))
        for index, row in enumerate(rows)
    ]  # fmt: skip
    return EventBlock(len(rows), {f.name: nulls(f.dtype, len(rows)) for f in schema}, malformed)


__all__ = ["read_csv"]
