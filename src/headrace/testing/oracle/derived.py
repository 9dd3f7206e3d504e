"""The events of derived streams that look something up: one row of lookups per event of the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from headrace.features.plan import WHERE, DerivedPlan, ProjectPlan
from headrace.testing.oracle.events import Event
from headrace.testing.oracle.tables import TableRow
from headrace.testing.oracle.view import view_row

KnownAt: TypeAlias = dict[tuple[str, int, int], tuple[dict[str, list[int]], int]]
"""By raw stream, partition and offset what an event's look-ups saw: the first offsets not known of each stream, and of
the rows of tables."""


def with_derived(
    project: ProjectPlan,
    events: Mapping[str, Sequence[Event]],
    table_rows: Mapping[str, Sequence[TableRow]],
    known_at: KnownAt | None = None,
) -> dict[str, list[Event]]:
    """`events` (counted ones by raw stream) with those of the derived streams beside them, by topic.

    They are derived of all that is known, or each of what `known_at` says.
    """
    found = {name: list(of_stream) for name, of_stream in events.items()}
    for topic, derived in project.derived.items():
        found[topic] = []
        for event in found[derived.source]:
            known = None if known_at is None else known_at[project.root(topic), event.partition, event.offset]
            made = _derived(project, derived, event, found, table_rows, known)
            if made is not None:
                found[topic].append(made)
    return found


def _derived(
    project: ProjectPlan,
    derived: DerivedPlan,
    event: Event,
    events: Mapping[str, Sequence[Event]],
    table_rows: Mapping[str, Sequence[TableRow]],
    known: tuple[dict[str, list[int]], int] | None,
) -> Event | None:
    """The event with what is computed at it; None if the stream's condition leaves it out."""
    streams, rows = (None, None) if known is None else known
    row = view_row(project, derived.view, event.row, event.event_time_us, events, table_rows, streams, rows)
    if WHERE in row and row.pop(WHERE) is not True:
        return None
    return replace(event, row={**event.row, **row})
