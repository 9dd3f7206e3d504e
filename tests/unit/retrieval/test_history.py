"""Point-in-time reads where the numbers of keys grow large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headrace.core.columns import column_of
from headrace.core.events import EventBlock, encode_block
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import SimulatedClock
from headrace.engines.stream.worker import ComputeWorker
from headrace.eventlog.base import Append
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.plan import (
    AggregateSpec,
    Binding,
    GroupPlan,
    KeyPart,
    ProjectPlan,
    StreamPlan,
    ViewColumn,
    ViewPlan,
)
from headrace.retrieval.history import HistoryReader, ServedAt
from headrace.retrieval.past import Past
from headrace.stores.offline.memory import MemoryOfflineStore


def world(parts: int, folder: Path, n: int) -> tuple[HistoryReader, list[str]]:
    """Two rounds of `n` events, each of an entity of its own: every part of its key is its number."""
    names = [f"k{part}" for part in range(parts)]
    keys = tuple(KeyPart(name, DType.INT, None) for name in names)
    fields = (*(Field(name, DType.INT) for name in names), Field("at", DType.TIMESTAMP))
    stream = StreamPlan("s", Schema("s", fields, "at"))
    count = AggregateSpec("n", "count", None, None, None, 1, 0, DType.INT)
    group = GroupPlan("g", "0" * 16, "s", None, keys, (), (count,), (), ("n",))
    project = ProjectPlan({"s": stream}, {"g": group}, {}, {}, {})
    view = ViewPlan(
        "v", "", "s", Schema("request", fields, "at"), (Binding("g", False, "", tuple(names)),),
        (ViewColumn("g__n", DType.INT, "feature", binding=0, feature="n"),),
    )  # fmt: skip
    raw, log = MemoryEventLog(SimulatedClock(10**9)), MemoryEventLog(SimulatedClock(10**9))
    raw.create("s")
    numbers = column_of(DType.INT, list(range(n)) * 2)
    columns = dict.fromkeys(names, numbers) | {"at": column_of(DType.TIMESTAMP, list(range(2 * n)))}
    raw.append([Append("s", 0, encode_block(EventBlock(2 * n, columns)), 2 * n)])
    ComputeWorker(project, raw, log, folder / "checkpoint").step()
    return HistoryReader(view, project, Past(project, raw, log, MemoryOfflineStore())), names


@pytest.mark.parametrize(("parts", "n"), [(2, 3_000), (5, 7_000)])
def test_keys_of_several_parts_stay_apart_in_corrected_and_served_history(parts: int, n: int, tmp_path: Path) -> None:
    """3,000 by 3,000 possible keys leave no room for offsets beside them; 7,000 to the fifth do not fit int64."""
    reader, names = world(parts, tmp_path, n)
    numbers = column_of(DType.INT, list(range(n)))
    request = dict.fromkeys(names, numbers) | {"at": column_of(DType.TIMESTAMP, [3 * n] * n)}
    places = np.array([[n + i + i % 2] for i in range(n)], np.int64)
    corrected = reader.read(request).column("g__n").values
    served = reader.read(request, ServedAt({"s": places}, np.zeros(n, np.int64))).column("g__n").values
    assert corrected.tolist() == [2] * n
    # The second event of entity i has offset n + i.
    assert served.tolist() == [2 if i % 2 else 1 for i in range(n)]


def test_a_stream_that_is_not_named_was_not_known(tmp_path: Path) -> None:
    reader, names = world(1, tmp_path, 3)
    request = {names[0]: column_of(DType.INT, [0, 1, 2]), "at": column_of(DType.TIMESTAMP, [9, 9, 9])}
    found = reader.read(request, ServedAt({}, np.zeros(3, np.int64)))
    assert found.column("g__n").values.tolist() == [0, 0, 0]
