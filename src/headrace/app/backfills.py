"""What a backfill that names groups and derived streams comes to: computing, a run out of turn, or deriving anew."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from headrace.app.backfill import BackfillReport, Progress, lost_groups, prepare
from headrace.app.scheduled import run_out_of_turn
from headrace.core.errors import SchemaError
from headrace.features.plan import ProjectPlan, TablePlan

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.engines.batch.runner import BatchRunner


def streams_of(plan: ProjectPlan) -> list[str]:
    """Names of logged derived streams; a group of the same name stands before one."""
    return [derived.name for derived in plan.derived.values() if derived.name not in plan.groups]


def derived_anew(
    parts: Parts, names: Sequence[str], streams: Collection[str], planned: Collection[str], since_us: int | None
) -> list[str]:
    """The derived streams that are meant: named themselves, or under groups that have nothing else to catch up with.

    Raises SchemaError if they are named beside something else, or with a time to begin at.
    """
    due = {*planned, *lost_groups(parts)}
    found = {name: name if name in streams else _under(parts.plan, name) for name in names if name not in due}
    if since_us is not None:
        # A group of which nothing is due leaves nothing out.
        found = {name: stream for name, stream in found.items() if name in streams}
    found = {name: stream for name, stream in found.items() if stream}
    if found and (len(found) < len(names) or since_us is not None):
        raise SchemaError(f"{next(iter(found))} is derived anew as a whole: name it alone, without since")
    return list(found.values())


def backfill_table(batch: BatchRunner, table: TablePlan, since_us: int | None) -> BackfillReport:
    """Fill a table that has a query with rows from a time on."""
    began = time.monotonic()
    written = batch.run(table, since_us=since_us, backfill=True)
    return BackfillReport((table.name,), written.appended, time.monotonic() - began)


def backfill_groups(
    parts: Parts,
    names: Sequence[str] | None,
    planned: Sequence[str],
    since_us: int | None,
    progress: Progress | None,
) -> BackfillReport:
    """Compute those of the groups that are due (None: all), or bring scheduled ones that are named up to date.

    Raises SchemaError if a scheduled group is named beside others, or with a time to begin at.
    """
    chosen, groups = names or (), parts.plan.groups
    own = [name for name in chosen if name not in planned and groups[name].version in parts.plan.scheduled]
    if own:
        if len(own) < len(chosen) or since_us is not None:
            raise SchemaError(f"group {own[0]} is scheduled and goes on from where it is: name it alone, without since")
        return run_out_of_turn(parts, own)
    due = [name for name in dict.fromkeys([*planned, *lost_groups(parts)]) if names is None or name in names]
    report = prepare(parts, due, since_us=since_us, progress=progress)
    return replace(report, due=tuple(name for name in due if name in planned))


def _under(plan: ProjectPlan, group: str) -> str:
    """The derived stream under a group that runs in the stream; empty if there is none."""
    found = plan.groups.get(group)
    if found is None or found.version in plan.scheduled or found.stream not in plan.derived:
        return ""
    return plan.derived[found.stream].name
