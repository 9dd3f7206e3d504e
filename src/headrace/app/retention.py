"""What raw topics keep: the newest days, and whatever somebody still needs; the archive has the rest.

An event is dropped from a raw topic when it arrived longer ago than the setting `retention`, lies in the archive, is
behind the checkpoint of compute, and was looked at by every model whose label it may be. The raw topics of derived
streams stay whole: an edit of one derives it anew from the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.app.settings import FOREVER
from headrace.core.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Collection

    from headrace.app.wiring import Parts
    from headrace.features.plan import ProjectPlan


def trim_raw(parts: Parts, keep_us: int) -> dict[str, int]:
    """Drop from each raw topic what is older than `keep_us` and needed by nobody; returns by stream how many events."""
    from headrace.app.history import first_arrival
    from headrace.engines.stream.commits import WINDOWS
    from headrace.engines.stream.worker import checkpoint_positions
    from headrace.monitoring.truth import joiner
    from headrace.retrieval.past import WRITER, events_table

    plan, raw = parts.plan, parts.raw
    topics, since_us = raw.topics(), parts.clock.now_us() - keep_us
    computed = _everywhere([checkpoint_positions(file) for file in parts.checkpoints])
    derived_from = {plan.root(topic) for topic in plan.derived}
    dropped = {}
    for stream in plan.streams:
        if stream not in topics or stream in derived_from or stream not in computed:
            continue
        commits = [parts.offline.number(events_table(stream), WRITER)]
        for model in plan.models.values():
            if model.label.stream == stream:
                commits.append(parts.features.committed(joiner(model.name), WINDOWS, 0))
        done = _positions(parts, min(commits), stream, topics[stream])
        count = 0
        for partition, limits in enumerate(zip(done, computed[stream], strict=True)):
            before = raw.begin(stream, partition)
            aged = first_arrival(raw, stream, partition, since_us)
            if min(aged, *limits) > before:
                count += raw.trim(stream, partition, min(aged, *limits)) - before
        if count:
            dropped[stream] = count
    return dropped


def check_derivable(parts: Parts, plan: ProjectPlan, derives: Collection[str]) -> None:
    """Raise PlanError if a derived stream of the plan would have to be derived from events that the log has dropped."""
    topics = parts.raw.topics()
    for derived in plan.derived.values():
        name, root = derived.name, plan.root(derived.topic)
        if (
            name in derives
            and root in topics
            and any(parts.raw.begin(root, partition) for partition in range(topics[root]))
        ):
            raise PlanError(
                f"derived stream {name} would be derived from events of {root} that the log has dropped "
                f'(retention); declare derived streams first, or keep the log whole with retention = "{FOREVER}"'
            )


def _everywhere(computed: list[dict[str, list[int]]]) -> dict[str, list[int]]:
    """By stream and partition, the least offset; streams that one of them lacks are left out."""
    common = set(computed[0]).intersection(*computed[1:])
    return {name: list(map(min, *(of[name] for of in computed), computed[0][name])) for name in common}


def _positions(parts: Parts, commit: int, stream: str, partitions: int) -> list[int]:
    """Where a stream stood, per partition, after the commits below an offset."""
    from headrace.engines.stream.worker import read_heads

    heads = read_heads(parts.features, commit - 1, 1) if commit > 0 else []
    return heads[0][1].positions.get(stream, [0] * partitions) if heads else [0] * partitions
