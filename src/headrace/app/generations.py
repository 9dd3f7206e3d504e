"""Which generation of each derived stream is served, and making the next one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from headrace.app.backfill import PUBLISHED, BackfillReport, Progress, small
from headrace.app.changes import definition_records
from headrace.app.heartbeats import EVERY_LAYER
from headrace.app.kept import kept_plan
from headrace.app.locks import FolderLock, holder_of, layers_at_rest
from headrace.app.scheduled import ROLE, SCHEDULED, applied_schedule
from headrace.app.sharing import await_rest
from headrace.app.sides import refuse_beside
from headrace.app.users import os_user
from headrace.features.generation import (
    at_generations,
    downstream,
    first_topic,
    generation_topic,
    generations_of,
    version_at,
)

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.catalog.catalog import Catalog
    from headrace.features.plan import ProjectPlan

_GENERATIONS = "derived generations"
"""Setting of the catalog: by first topic, when each further generation was published."""


def at_served_generations(plan: ProjectPlan, catalog: Catalog, as_of_us: int | None = None) -> ProjectPlan:
    """The plan at the generations that are served, or that were at a time."""
    if not plan.derived:
        return plan
    published: dict[str, list[int]] = catalog.setting(_GENERATIONS, {})
    return at_generations(
        plan,
        {
            first: len(times) if as_of_us is None else sum(at_us < as_of_us for at_us in times)
            for first, times in published.items()
        },
    )


def running_plan(plan: ProjectPlan, catalog: Catalog) -> ProjectPlan:
    """The definitions as they run: with what is kept beside them, at the generations that are served, scheduled as was
    applied last."""
    return replace(at_served_generations(kept_plan(plan, catalog), catalog), scheduled=applied_schedule(catalog))


def at_served_topics(groups: Mapping[str, str], catalog: Catalog) -> dict[str, str]:
    """Versions of groups, each with the first topic of its stream, as versions and topics that are served."""
    published: dict[str, list[int]] = catalog.setting(_GENERATIONS, {})
    found = {}
    for version, first in groups.items():
        topic = generation_topic(first, len(published.get(first, ())))
        found[version_at(version, first, topic)] = topic
    return found


def derive_anew(parts: Parts, names: Sequence[str], progress: Progress | None = None) -> BackfillReport:
    """Derive streams and those that read them anew, of all that is known now, and serve what comes of it.

    The long part needs no lock of a layer, and reads are answered by the former generation. Then compute and ingestion
    rest for as long as it takes to catch up, and the new generation is published as a whole, at a position that is no
    lower than what is served. Killed, it goes on where it was.

    The plan of `parts` is as it was: the caller opens what hangs on it anew. Raises Busy if another backfill runs, or a
    layer that no supervisor started, and PlanError if the definitions are changed meanwhile.
    """
    from headrace.derivation.anew import Rederivation

    catalog, settings, state = parts.catalog, parts.settings, parts.settings.state
    refuse_beside(catalog, settings, "deriving a stream anew")
    decided = catalog.generation()
    streams = downstream(parts.plan, names)
    current = generations_of(parts.plan)
    following = current | {first_topic(derived): current[first_topic(derived)] + 1 for derived in streams}
    plan = at_generations(parts.plan, following)
    topics = [d.topic for d in plan.derived.values() if following[first_topic(d)] > current[first_topic(d)]]
    if holder_of(state, "up") is None:
        # Better said before everything is computed than after.
        with layers_at_rest(state, EVERY_LAYER, ()):
            pass
    began = time.monotonic()
    with FolderLock(state, "backfill"):
        work = Rederivation(
            plan, topics, parts.raw, parts.features, parts.offline, parts.online,
            horizon_us=parts.horizon_us, memory_bytes=parts.memory_bytes, pace=parts.pace,
        )  # fmt: skip
        while work.advance(progress) >= small():
            pass
        with (
            layers_at_rest(state, EVERY_LAYER, answering=("serve",)),
            FolderLock(state, "compute"),
            FolderLock(state, "ingest"),
            FolderLock(state, ROLE),
        ):
            await_rest(parts)
            ingest = parts.ingest()
            while ingest.step():
                pass
            while work.advance():
                pass
            work.publish()
            # Before anybody reads the new generation, the store says how far it is.
            while ingest.step():
                pass
            published = catalog.setting(_GENERATIONS, {})
            for first, number in following.items():
                if number > current[first]:
                    published[first] = [*published.get(first, []), parts.clock.now_us()]
            changed = {PUBLISHED + version: ends for version, ends in work.published().items() if any(ends)}
            catalog.apply(
                definition_records(plan, settings.owner),
                generation=decided,
                settings={_GENERATIONS: published, SCHEDULED: dict(plan.scheduled), **changed},
                who=os_user(),
            )
    seconds = time.monotonic() - began
    return BackfillReport(tuple(derived.name for derived in streams), work.read, seconds)
