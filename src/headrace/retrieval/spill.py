"""History that is larger than memory: cut by key into parts that fit, which lie on disk until each is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.core.columns import IntArray

CODE = "_key_code"
"""The column of a part that holds the number of each row's key."""
_MOST_PARTS = 256


def parts_by_key(
    keys_alone: Iterable[pa.Table],
    whole: Iterable[pa.Table],
    codes_of: Callable[[pa.Table], Any],
    size: int,
    most_rows: int,
) -> Iterator[tuple[int, int, pa.Table]]:
    """Rows by ranges of key numbers: `(low, high, rows)` for the keys `low` to `high - 1`, all of 0 to `size` in order.

    The rows come twice, in batches: with their keys alone, to be counted, and whole, to be written to a folder of
    temporary files. A part holds at most about `most_rows` rows, or one key; each lies in memory (mapped from its file)
    only until the next is asked for. Rows with a negative number are left out.
    """
    counts = np.zeros(size + 1, np.int64)
    for batch in keys_alone:
        counts += np.bincount(codes_of(batch) + 1, minlength=size + 2)[1:]
    ends = _ends(counts, most_rows)
    with TemporaryDirectory(prefix="headrace-history-") as folder:
        files, schema = _write(whole, codes_of, ends, Path(folder))
        low = 0
        for file, high in zip(files, ends.tolist(), strict=True):
            if file.exists():
                with pa.memory_map(str(file)) as mapped, pa.ipc.open_file(mapped) as reader:
                    yield low, high, reader.read_all()
            elif schema is not None:
                yield low, high, schema.empty_table()
            low = high


def _ends(counts: IntArray, most_rows: int) -> IntArray:
    """Where ranges of keys end that have about the same number of rows, at most `most_rows` if they can."""
    parts = min(max(1, -(-int(counts.sum()) // most_rows)), _MOST_PARTS, len(counts))
    totals = np.cumsum(counts)
    inner = np.searchsorted(totals, np.arange(1, parts) * (totals[-1] / parts)) + 1
    return np.unique(np.append(np.minimum(inner, len(counts)), len(counts)))


def _write(
    batches: Iterable[pa.Table], codes_of: Callable[[pa.Table], Any], ends: IntArray, folder: Path
) -> tuple[list[Path], pa.Schema | None]:
    """Write each batch's rows to the files of their parts; a part without rows has no file.

    Returned are the files and what their rows look like; None if there was no batch.
    """
    files = [folder / f"{part}.arrow" for part in range(len(ends))]
    writers: list[Any] = [None] * len(ends)
    schema: pa.Schema | None = None
    try:
        for batch in batches:
            codes = codes_of(batch)
            part = np.where(codes < 0, -1, np.searchsorted(ends, codes, side="right"))
            order = np.argsort(part, kind="stable")
            edges = np.searchsorted(part[order], np.arange(len(ends) + 1))
            rows = batch.append_column(CODE, pa.array(codes, pa.int32())).take(pa.array(order[edges[0] :]))
            schema = schema or rows.schema
            rows = rows.select(schema.names).cast(schema).combine_chunks()
            for index, (a, b) in enumerate(pairwise((edges - edges[0]).tolist())):
                if a == b:
                    continue
                if writers[index] is None:
                    writers[index] = pa.ipc.new_file(str(files[index]), schema)
                writers[index].write_table(rows.slice(a, b - a))
    finally:
        for writer in writers:
            if writer is not None:
                writer.close()
    return files, schema
