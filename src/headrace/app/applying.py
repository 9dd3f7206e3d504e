"""Plan and apply: what an edit of the definitions would do, and doing it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from headrace.app.backfill import derive_streams, events_to_read, measured_rate, prepare, publish
from headrace.app.changes import ProjectChanges, RunChange, forget_empty_streams, project_changes
from headrace.app.generations import at_served_generations, at_served_topics
from headrace.app.heartbeats import EVERY_LAYER
from headrace.app.kept import (
    keep,
    kept_streams,
    needs_of,
    plan_keeping,
    remember_groups,
    remember_views,
    remembered_groups,
)
from headrace.app.locks import holder_of, layers_at_rest
from headrace.app.scheduled import SCHEDULED, applied_schedule, declared_schedule, run_group
from headrace.app.sharing import await_rest
from headrace.app.sides import refuse_beside
from headrace.app.users import os_user
from headrace.app.widening import largest_number
from headrace.core.errors import Busy, PlanError
from headrace.features.plan import ProjectPlan

if TYPE_CHECKING:
    from headrace.app.wiring import Parts


def plan_changes(parts: Parts, declared: ProjectPlan) -> ProjectChanges:
    """What `apply_changes` would change; raises what `Project.plan` says."""
    catalog = parts.catalog
    needs = needs_of(declared, catalog, parts.registry)
    plan = at_served_generations(plan_keeping(declared, catalog, needs), catalog)
    found = project_changes(
        plan,
        catalog,
        parts.settings.owner,
        has_events=parts.has_events,
        largest=partial(largest_number, parts),
        computed=frozenset(_kept_streams(parts)),
    )
    found = replace(found, needs=needs, runs=_runs(parts, plan, found))
    events, rate = events_to_read(parts, [*found.backfills, *_joining(parts, found)]), measured_rate(parts)
    return replace(found, events=events, seconds=None if rate is None else events / rate)


def apply_changes(
    parts: Parts,
    declared: ProjectPlan,
    given: ProjectChanges | None,
    *,
    abandon: bool,
    progress: Callable[[int, int], None] | None,
) -> ProjectChanges:
    """Make the definitions the ones that run; raises what `Project.apply` says.

    The plan of `parts` is replaced on the way, whether it succeeds or not: the caller opens what hangs on it anew.
    """
    # Processes that share a folder have its locks; those that share a database may run anywhere.
    with nullcontext() if parts.settings.catalog == "embedded" else parts.catalog.hold("apply"):
        return _apply(parts, declared, given, abandon=abandon, progress=progress)


def _apply(
    parts: Parts,
    declared: ProjectPlan,
    given: ProjectChanges | None,
    *,
    abandon: bool,
    progress: Callable[[int, int], None] | None,
) -> ProjectChanges:
    current, catalog = plan_changes(parts, declared), parts.catalog
    if given is not None and (given.changes, given.runs) != (current.changes, current.runs):
        raise PlanError("the definitions changed after this plan was made; make it again")
    lost = [str(need) for need in current.needs if need.live and need.lost]
    if current and lost and not abandon:
        raise PlanError("\n".join(lost))
    plan = at_served_generations(plan_keeping(declared, catalog, current.needs), catalog)
    before, after = applied_schedule(catalog), declared_schedule(plan, parts.settings.groups)

    def change() -> None:
        forget_empty_streams(current, catalog, parts.has_events)
        remember_views(declared, catalog)
        remember_groups(plan, catalog)
        catalog.apply(current.records, generation=current.generation, settings={SCHEDULED: after}, who=os_user())

    if not current:
        change()
        return current
    refuse_beside(catalog, parts.settings, "a change of the definitions")
    state = parts.settings.state
    if holder_of(state, "up") is None:
        # Better said before the groups are computed than after.
        with layers_at_rest(state, EVERY_LAYER, ()):
            pass
    prepare(parts, current.backfills, progress=progress)
    for name in _joining(parts, current):
        # Most of what it lacks is made up for before anything rests, unless its schedule does that just now.
        with suppress(Busy):
            run_group(parts, parts.plan.groups[name])
    applied = [definition.record for definition in catalog.definitions("group")]
    topics = {record.version: record.body.get("topic", record.body["stream"]) for record in applied}
    topics |= _kept_streams(parts)

    joining, leaving = ({run.version for run in current.runs if run.joins is joins} for joins in (True, False))

    def switch() -> None:
        keep(catalog, current.needs)
        change()

    # What stays computed for a model is ingested to the end, like what is declared.
    parts.plan = replace(plan, scheduled=before)
    names = {group.version: name for name, group in {**plan.kept_groups, **plan.groups}.items()}
    with layers_at_rest(state, EVERY_LAYER, answering=("serve",)):
        await_rest(parts)
        publish(
            parts,
            [*current.backfills, *(names[version] for version in sorted(joining))],
            {version: topics[version] for version in current.dropped},
            switch,
            [plan.group(names[version]) for version in sorted(leaving)],
            remembered_groups(catalog, current.dropped),
        )
        parts.plan = replace(plan, scheduled=after)
        if current.derives:
            # Groups over what is derived anew are computed with it. Cut short, the computing layer goes on with it.
            derive_streams(parts)
    return current


def _runs(parts: Parts, plan: ProjectPlan, found: ProjectChanges) -> tuple[RunChange, ...]:
    """Groups that will run otherwise than they do, and new ones that will not run in the stream."""
    catalog = parts.catalog
    before, after = applied_schedule(catalog), declared_schedule(plan, parts.settings.groups)
    computed = {d.record.version for d in catalog.definitions("group")} | set(_kept_streams(parts))
    runs = []
    for group in plan.computed_groups:
        new = group.version not in computed
        run = RunChange(
            group.name, group.version, None if new else before.get(group.version), after.get(group.version), new
        )
        if run.before != run.after:
            runs.append(run)
    return tuple(runs)


def _kept_streams(parts: Parts) -> dict[str, str]:
    """Versions of the groups of what is kept, each with the topic of its events, as they are computed."""
    return at_served_topics(kept_streams(parts.catalog), parts.catalog)


def _joining(parts: Parts, changes: ProjectChanges) -> list[str]:
    """Declared groups that go over from their schedule to the stream."""
    versions = {run.version for run in changes.runs if run.joins}
    return [name for name, group in parts.plan.groups.items() if group.version in versions]
