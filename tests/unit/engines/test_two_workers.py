"""What else could be wrong with the logs of a compute worker: a second worker, other partitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.core.errors import LogError, LogMoved
from headrace.core.events import encode_block
from headrace.core.rows import encode_rows
from headrace.engines.stream.commits import WINDOWS, decode_commit
from headrace.engines.stream.worker import ComputeWorker
from headrace.eventlog.base import Append
from headrace.eventlog.memory import MemoryEventLog
from tests.unit.engines.test_verdicts import GROUP, Stream, order


def test_a_worker_that_was_overtaken_writes_nothing_and_goes_on_from_the_log(tmp_path: Path) -> None:
    stream = Stream(tmp_path)
    other = ComputeWorker(stream.project, stream.raw, stream.features, tmp_path / "other")
    for name in "ab":
        block = encode_block(encode_rows(stream.plan.schema, [order(name)]))
        stream.raw.append([Append("order", 0, block)])
        assert stream.worker.step() == 1
        with pytest.raises(LogMoved, match="another one writes there too"):
            other.step()
        assert stream.features.end(WINDOWS, 0) == ord(name) - ord("a") + 1
        assert other.step() == 0  # it has looked at the log again
    commits = [decode_commit(batch.payload) for batch in stream.features.read(WINDOWS, 0, 0)]
    assert [commit.groups[GROUP.version].counts for commit in commits] == [[1], [1]]
    # Whichever comes first goes on.
    stream.raw.append([Append("order", 0, encode_block(encode_rows(stream.plan.schema, [order("b"), order("c")])), 2)])
    assert other.step() == 2
    last = stream.features.last(WINDOWS, 0)
    assert last is not None
    assert decode_commit(last.payload).streams["order"].exceptions == [(0, 2, 1)]


def test_a_topic_that_has_got_more_partitions_is_refused_and_not_read_in_part(tmp_path: Path) -> None:
    stream = Stream(tmp_path)
    stream.send(order("a"))
    wider = MemoryEventLog(stream.clock)
    wider.create("order", 2)
    with pytest.raises(LogError, match="order has 2 partitions now, and had 1"):
        ComputeWorker(stream.project, wider, stream.features, tmp_path / "none")
