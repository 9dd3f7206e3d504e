"""What raw topics keep: the newest days, and whatever somebody still needs; the archive has the rest.

An event is dropped from a raw topic when it arrived longer ago than the setting `retention`, lies in the archive, is
behind the checkpoint of compute, was derived wherever it is derived, and was looked at by every model whose label it
may be. So are derived records, but for the newest batch of a partition, which says where deriving goes on. Whoever
comes later (a backfill, a new derived stream, a comparison of the online store) reads archive and log as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.features.plan import ProjectPlan


def trim_raw(parts: Parts, keep_us: int) -> dict[str, int]:
    """Drop from each raw topic what is older than `keep_us` and needed by nobody; returns by stream how many events."""
    from headrace.app.history import first_arrival
    from headrace.engines.stream.checkpoints import checkpoint_positions
    from headrace.engines.stream.commits import WINDOWS
    from headrace.monitoring.truth import joiner
    from headrace.retrieval.past import WRITER, events_table

    plan, raw = parts.plan, parts.raw
    topics, since_us = raw.topics(), parts.clock.now_us() - keep_us
    shared = parts.settings.compute_workers > 1
    computed = _everywhere(
        [
            checkpoint_positions(file, parts.features, shared=shared and file == parts.checkpoint)
            for file in parts.checkpoints
        ]
    )
    dropped = {}
    for stream in plan.topics():
        # A topic that has a name of its own in Kafka is somebody else's: he says what it keeps.
        if stream not in topics or stream not in computed or stream in parts.settings.topics:
            continue
        commits = [parts.offline.number(events_table(name), WRITER) for name in _sources(plan, stream)]
        for model in plan.models.values():
            if model.label.stream == stream:
                commits.append(parts.features.committed(joiner(model.name), WINDOWS, 0))
        done = _positions(parts, min(commits), stream, topics[stream])
        readers = [name for name, derived in plan.derived.items() if derived.source == stream]
        count = 0
        for partition, archived in enumerate(done):
            before = raw.begin(stream, partition)
            # A derived stream that is new has yet to read what the archive holds, and is in no hurry.
            needed = [raw.end(name, partition) if name in topics else 0 for name in readers]
            if stream in plan.derived:
                last = raw.last(stream, partition)
                needed.append(before if last is None else last.base)
            edge = min(
                archived, computed[stream].get(partition, 0), *needed, first_arrival(raw, stream, partition, since_us)
            )
            if edge > before:
                count += raw.trim(stream, partition, edge) - before
        if count:
            dropped[stream] = count
    return dropped


def _sources(plan: ProjectPlan, stream: str) -> list[str]:
    """A stream, and what it is derived from, up to the raw stream."""
    found = [stream]
    while found[-1] in plan.derived:
        found.append(plan.derived[found[-1]].source)
    return found


def _everywhere(computed: list[dict[str, dict[int, int]]]) -> dict[str, dict[int, int]]:
    """By stream and partition, the least offset; what one of them lacks is left out."""
    first, *others = computed
    return {
        name: {p: min(at, *(of.get(name, {}).get(p, 0) for of in others), at) for p, at in partitions.items()}
        for name, partitions in first.items()
    }


def _positions(parts: Parts, commit: int, stream: str, partitions: int) -> list[int]:
    """Where a stream stood, per partition, after the commits below an offset."""
    from headrace.engines.stream.worker import read_heads

    heads = read_heads(parts.features, commit - 1, 1) if commit > 0 else []
    return heads[0][1].positions.get(stream, [0] * partitions) if heads else [0] * partitions
