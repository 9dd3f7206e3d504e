"""Groups that run on a schedule instead of in the stream, by configuration: which, and a run of one.

The definition is the same, and so are version and values: a run merges the events that came since the last one into
the group's records, and moves the group's own position with them. What is read in between reflects that position. How a
group runs is what was applied last, noted in the catalog, so that all processes mean the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.app.locks import FolderLock, holder_of
from headrace.app.settings import STREAM
from headrace.core.errors import ConfigError
from headrace.core.positions import decode_position, decode_state, state_key
from headrace.core.time import floor_to, format_duration, to_iso

if TYPE_CHECKING:
    from headrace.app.backfill import BackfillReport
    from headrace.app.wiring import Parts
    from headrace.catalog.catalog import Catalog
    from headrace.features.plan import GroupPlan, ProjectPlan
    from headrace.orchestration.schedule import Job

SCHEDULED = "scheduled groups"
"""Setting of the catalog: µs between two runs by version; it changes with the definitions."""
ROLE = "groups"
"""Who holds this lock of a state folder runs scheduled groups, or changes which ones there are."""


def declared_schedule(plan: ProjectPlan, runs: Mapping[str, str]) -> dict[str, int]:
    """µs between two runs, by version of the groups that `runs` (a schedule by name) takes out of the stream.

    A version that is kept for a model runs as the group of its name does. Raises ConfigError naming the groups that
    there are, and for a group that cannot be scheduled.
    """
    from headrace.orchestration.schedule import period_of

    unknown = [name for name in runs if name not in plan.groups]
    if unknown:
        raise ConfigError(
            f'the configuration says how group "{unknown[0]}" runs, but there is none of that name; there are: '
            f"{', '.join(sorted(plan.groups)) or 'none'}"
        )
    found: dict[str, tuple[str, str]] = {}
    for name, group in {**plan.kept_groups, **plan.groups}.items():
        run = runs.get(name.partition("@")[0], STREAM)
        other, of_other = found.setdefault(group.version, (name, run))
        if of_other != run:
            raise ConfigError(
                f"groups {other} and {name} are computed once, for they are the same, but run {run_text(of_other)} and "
                f"{run_text(run)}; give both the same"
            )
    for derived in plan.derived.values():
        for binding in derived.view.bindings:
            if not binding.is_table and runs.get(binding.source, STREAM) != STREAM:
                raise ConfigError(
                    f"group {binding.source} is looked up at every event of the derived stream {derived.name}, so it "
                    f'has to run in the stream; leave it out of the configuration, or say run = "{STREAM}"'
                )
    return {version: period_of(run) for version, (_, run) in found.items() if run != STREAM}


def applied_schedule(catalog: Catalog) -> dict[str, int]:
    """µs between two runs by version, as it was applied."""
    found: dict[str, int] = catalog.setting(SCHEDULED, {})
    return found


def run_text(run: str | int | None) -> str:
    """How a group runs, in words: of a configured value, or of a period in µs (None: in the stream)."""
    if run is None or run == STREAM:
        return "in the stream"
    return run if isinstance(run, str) and run.startswith("@") else f"every {_period(run)}"


def _period(run: str | int) -> str:
    return run if isinstance(run, str) else format_duration(run)


def run_group(parts: Parts, group: GroupPlan, end: Sequence[int] | None = None) -> int:
    """Bring a scheduled group up to `end` (per partition; else to where stream compute has judged events).

    Returns how many offsets were read. The group's position moves with its records, in pieces that readers see as a
    whole. Killed, it goes on where it was.
    Raises Busy if another process runs scheduled groups, or changes the definitions.
    """
    from headrace.engines.stream.worker import committed_positions
    from headrace.ingestion.backfill import GroupBackfill, read_state, write_state

    with FolderLock(parts.role_folder, ROLE):
        now = parts.clock.now_us()
        if end is None:
            end = committed_positions(parts.features).get(group.stream, [])
        state = read_state(parts.online, group.version)
        begin = [0] * len(end) if state is None else state.at
        if not any(a < b for a, b in zip(begin, end, strict=True)):
            if state is not None:
                write_state(parts.online, group.version, msgspec.structs.replace(state, run_us=now))
            return 0
        job = GroupBackfill(
            parts.plan, [group], parts.raw, parts.features, parts.offline, parts.online,
            horizon_us=parts.horizon_us, clock_us=None, served=True, run_us=now, pace=parts.pace,
        )  # fmt: skip
        job.advance(begin, end)
        return job.read


def run_out_of_turn(parts: Parts, names: Sequence[str]) -> BackfillReport:
    """Bring scheduled groups, and kept versions of them, up to date now; each run is recorded."""
    from headrace.app.backfill import BackfillReport, positions_of

    began, events = time.monotonic(), 0
    for group in _scheduled(parts.plan):
        if group.name.partition("@")[0] not in names:
            continue
        read = run_group(parts, group)
        parts.catalog.record_run(job_name(group), "asked for", "done", {"events": read})
        events += read
    return BackfillReport(tuple(names), events, time.monotonic() - began, positions_of(parts, names))


def group_jobs(parts: Parts, reached: Callable[[], Mapping[str, Sequence[int]]] | None = None) -> list[Job]:
    """One job per scheduled group. A run goes up to what `reached` says by stream, where stream compute is ahead."""
    from headrace.orchestration.schedule import Job

    def work(group: GroupPlan, _: int) -> Mapping[str, Any] | None:
        events = run_group(parts, group, None if reached is None else reached().get(group.stream, []))
        return {"events": events} if events else None

    return [
        Job(job_name(group), parts.plan.scheduled[group.version], partial(work, group))
        for group in _scheduled(parts.plan)
    ]


def _scheduled(plan: ProjectPlan) -> list[GroupPlan]:
    return [group for group in plan.computed_groups if group.version in plan.scheduled]


class GroupStatus(msgspec.Struct, frozen=True):
    """How a group runs, and how far it is.

    Attributes:
        run: "in the stream", or "every 1h".
        behind: events of its stream (of a derived one: of its source) in the log that it does not reflect.
        newest_us: the newest event of its stream that it reflects; None if it reflects none.
        last_run_us, next_run_us: of a scheduled group, when it was brought up to date and when that is due again; None
            if it never was, and while no schedule runs.
        age_us: how long before now `newest_us` lies.
    """

    name: str
    run: str
    behind: int
    newest_us: int | None
    age_us: int | None
    last_run_us: int | None = None
    next_run_us: int | None = None

    def __str__(self) -> str:
        last = "no run yet" if self.last_run_us is None else f"last {to_iso(self.last_run_us)}"
        following = "no schedule is running" if self.next_run_us is None else f"next {to_iso(self.next_run_us)}"
        newest = "" if self.newest_us is None else f", newest event {to_iso(self.newest_us)}"
        return f"group {self.name} runs {self.run}: {last}, {following}; {self.behind:,} events behind{newest}"


def group_status(parts: Parts, group: GroupPlan) -> GroupStatus:
    """How a group that is computed runs, and how far it is."""
    now, period = parts.clock.now_us(), parts.plan.scheduled.get(group.version)
    position = decode_position(parts.online.position())
    at, clock = position.streams.get(group.stream, []), position.clock_us.get(group.stream)
    last = following = None
    if period is not None:
        state = decode_state(parts.online.read([state_key(group.version)])[0][0])
        at, clock, last = ([], None, None) if state is None else (state.at, state.clock_us, state.run_us)
        if holder_of(parts.settings.state, "schedule") is not None:
            following = floor_to(now, period) + period
    root = parts.plan.root(group.stream)
    end = sum(parts.raw.end(root, p) for p in range(parts.raw.topics().get(root, 0)))
    age = None if clock is None else now - clock
    return GroupStatus(group.name, run_text(period), end - sum(at), clock, age, last, following)


def job_name(group: GroupPlan) -> str:
    """What the runs of a group are called in the catalog."""
    return f"group {group.name}"
