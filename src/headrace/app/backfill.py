"""State of new and changed groups, computed from the events that the log holds already.

The verdicts of the past are given again, as they were, by judging every event from the beginning; the deltas of the
missing events are appended to the feature log as commits that read nothing: their positions are where stream compute
stands, so the worker goes on from there with the new groups complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from headrace.app.locks import FolderLock

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.engines.stream.engine import StreamEngine
    from headrace.features.plan import GroupPlan, ProjectPlan

_AT_ONCE = 200_000
_STOPPED = "computed until "


def backfill_groups(parts: Parts, names: Sequence[str], dropped: Sequence[str] = ()) -> int:
    """Compute groups from the log up to where stream compute stands; returns how many events were read.

    `dropped` are versions of groups that are no longer computed from here on. The caller makes sure that nothing reads
    the groups before this returns. Raises Busy if a worker runs.
    """
    from headrace.engines.stream.worker import committed_positions

    with FolderLock(parts.settings.state, "compute"), FolderLock(parts.settings.state, "ingest"):
        positions = committed_positions(parts.features)
        for version in dropped:
            parts.catalog.set_setting(_STOPPED + version, positions)
        groups = [parts.plan.groups[name] for name in names]
        read = 0
        for stream in dict.fromkeys(group.stream for group in groups):
            ends = positions.get(stream, [])
            if any(ends):
                mine = [group for group in groups if group.stream == stream]
                read += sum(_backfill(parts, stream, group, ends, positions) for group in mine)
        if read:
            ingest = parts.ingest()
            while ingest.step():
                pass
        return read


def derive_streams(parts: Parts) -> int:
    """Bring new and changed derived streams, and the groups over them, up to the log; returns the steps that it took.

    What is waiting of raw streams is computed, too. Raises Busy if a worker runs.
    """
    steps = 0
    with FolderLock(parts.settings.state, "compute"), FolderLock(parts.settings.state, "ingest"):
        computing = parts.compute()
        while computing.step():
            steps += 1
        if steps:
            ingest = parts.ingest()
            while ingest.step():
                pass
    return steps


def _backfill(parts: Parts, stream: str, group: GroupPlan, ends: list[int], positions: dict[str, list[int]]) -> int:
    from headrace.engines.stream.commits import WINDOWS, encode_commit
    from headrace.engines.stream.engine import StreamEngine
    from headrace.engines.stream.worker import read_span
    from headrace.eventlog.base import Append

    plan: ProjectPlan = replace(parts.plan, groups={group.name: group})
    engine = StreamEngine(plan)
    # A group that was computed before, then dropped, lacks only what came since.
    begin = parts.catalog.setting(_STOPPED + group.version, {}).get(stream, [0] * len(ends))
    _judge(parts, engine, stream, begin)
    at = list(begin)
    read = 0
    while any(a < end for a, end in zip(at, ends, strict=True)):
        chunks = [
            read_span(parts.plan, parts.raw, stream, p, a, min(end, a + _AT_ONCE))
            for p, (a, end) in enumerate(zip(at, ends, strict=True))
            if a < end
        ]
        output = engine.process({stream: chunks}, {**positions, stream: at})
        at = output.commit.positions[stream]
        read += sum(chunk.block.n for chunk in chunks)
        commit = output.commit
        commit.positions, commit.streams = positions, {}
        parts.features.append([Append(WINDOWS, 0, encode_commit(commit))])
    return read


def _judge(parts: Parts, engine: StreamEngine, stream: str, ends: list[int]) -> None:
    from headrace.engines.stream.worker import read_span

    states = engine.state(stream, len(ends))
    for partition, end in enumerate(ends):
        at = 0
        while at < end:
            chunk = read_span(parts.plan, parts.raw, stream, partition, at, min(end, at + _AT_ONCE))
            engine.verdicts(parts.plan.stream(stream), states[partition], chunk)
            at += chunk.block.n
