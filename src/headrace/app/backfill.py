"""Backfill: the state of new and edited groups, prepared beside what is served and published as a whole.

`prepare` is the long part: it needs no lock of a layer, reads are answered by the former versions while it runs, and
killed it goes on where it was. `publish` is short: with compute and ingestion at rest it adds what came meanwhile,
makes sure that the new versions have come as far as what is served, and only then lets the definitions change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from headrace.app.locks import FolderLock
from headrace.core.errors import StoreError
from headrace.core.positions import GroupState, decode_position

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.features.plan import GroupPlan
    from headrace.stores.online.base import OnlineStore

Progress = Callable[[int, int], None]
PUBLISHED = "backfilled "
"""Settings of the catalog, by version: up to where a backfill computed a group that is served, per partition."""
_RATE = "backfill.events_per_s"


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What a backfill did.

    Attributes:
        names: groups (or the table) that it was asked for, or found to be due.
        events: events read, each once for all groups of its stream; rows written, of a table.
        seconds: how long that took.
        positions: by stream, the offsets per partition up to which the groups are computed.
        due: groups that are complete but not served yet: `apply` publishes them.
    """

    names: tuple[str, ...]
    events: int
    seconds: float
    positions: dict[str, list[int]] = field(default_factory=dict)
    due: tuple[str, ...] = ()

    @property
    def events_per_s(self) -> float:
        """Events read per second; 0.0 if nothing was to be read."""
        return self.events / self.seconds if self.events and self.seconds else 0.0

    def __str__(self) -> str:
        if not self.names:
            return "no group has to be computed"
        rate = f" in {self.seconds:.1f} s ({self.events_per_s:,.0f}/s)" if self.events else ""
        lines = [f"{', '.join(self.names)}: {self.events:,} events read{rate}"]
        if self.due:
            lines.append("complete; publish with: headrace apply")
        return "\n".join(lines)


def prepare(
    parts: Parts, names: Sequence[str], *, since_us: int | None = None, progress: Progress | None = None
) -> BackfillReport:
    """Compute groups up to where stream compute stands; what comes meanwhile is caught up with in turn.

    The groups' versions must not be computed by the live stream. Raises Busy if another backfill runs, and PlanError if
    `since_us` would leave out events that count.
    """
    began, read = time.monotonic(), 0
    with FolderLock(parts.settings.state, "backfill"):
        while True:
            more = _advance(parts, [parts.plan.group(name) for name in names], since_us, progress)
            read += more
            if more < small():
                break
        parts.online.sync()
    seconds = time.monotonic() - began
    if read >= small():
        parts.catalog.set_setting(_RATE, read / seconds)
    return BackfillReport(tuple(names), read, seconds, positions_of(parts, names))


def publish(
    parts: Parts,
    names: Sequence[str],
    dropped: Mapping[str, str],
    change: Callable[[], object],
    leaving: Sequence[GroupPlan] = (),
    former: Sequence[GroupPlan] = (),
) -> None:
    """Complete the groups, note where versions that are `dropped` stand (each with its topic), and `change` the
    definitions; all while nothing runs. The plan of `parts` holds all that is computed afterwards, scheduled as
    before. `leaving` are groups that the stream hands over to a schedule, `former` the plans of what is dropped, as far
    as they are known: they are ingested to the end as well, so that a kill before the change loses nothing of them.

    Raises Busy if compute, ingestion or a scheduled group runs, StoreError if a group would be published behind what is
    served, Unreachable if a replica of the online store does not follow.
    """
    from headrace.engines.stream.worker import clocks_at, committed_positions
    from headrace.ingestion.backfill import read_state, write_state

    def note(version: str, stream: str) -> None:
        served = decode_position(parts.online.position())
        if stream in served.streams:
            at = served.streams[stream]
            # Each partition's own, so that a record is the same bytes when the version comes back as if it had stayed.
            clocks = clocks_at(parts.features, served.windows, {stream: at}).get(stream)
            held = read_state(parts.online, version) or GroupState(at)
            state = GroupState(
                at,
                clock_us=served.clock_us.get(stream),
                clocks_us=clocks,
                since_us=held.since_us,
                since_at=held.since_at,
            )
            write_state(parts.online, version, state)

    state = parts.settings.state
    with FolderLock(state, "compute"), FolderLock(state, "ingest"), FolderLock(state, "groups"):
        # Where a scheduled one stands is noted already.
        streamed = {version: stream for version, stream in dropped.items() if version not in parts.plan.scheduled}
        known = {group.version for group in former}
        for version, stream in streamed.items():
            # What the store does not reflect yet is computed again if the version comes back.
            if version not in known:
                note(version, stream)
        groups = [parts.plan.group(name) for name in names]
        if (groups or leaving) and committed_positions(parts.features):
            _ingest_all(parts, former)
            _advance(parts, groups, None, None)
            _check_complete(parts, groups)
        for version in streamed.keys() & known:
            note(version, streamed[version])
        for group in leaving:
            # The log holds no delta of it that is not in its records, should the stream take it over again.
            note(group.version, group.stream)
        # No log brings back what a backfill has written: what is served from now on must not be lost by a failover.
        parts.online.sync()
        change()
        for group in groups:
            found = _state(parts, group)
            if found is not None:
                parts.catalog.set_setting(PUBLISHED + group.version, found.at)


def _ingest_all(parts: Parts, former: Sequence[GroupPlan]) -> None:
    """Bring the online store up to the feature log: what is computed from now on, and what was so far."""
    plan, known = parts.plan, {group.version for group in parts.plan.computed_groups}
    beside = {f"{group.name}@{group.version}": group for group in former if group.version not in known}
    try:
        parts.plan = replace(plan, kept_groups={**plan.kept_groups, **beside})
        ingest = parts.ingest()
        while ingest.step():
            pass
    finally:
        parts.plan = plan


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


def fill_lookups(parts: Parts, store: OnlineStore) -> None:
    """Bring to the state of look-ups what was backfilled of its groups: the feature log begins behind that."""
    from headrace.derivation.worker import looked_up
    from headrace.ingestion.backfill import GroupBackfill, read_state

    for group in looked_up(parts.plan).groups.values():
        published = parts.catalog.setting(PUBLISHED + group.version)
        found = read_state(store, group.version)
        at = [0] * len(published or ()) if found is None else found.at
        if published is not None and any(a < b for a, b in zip(at, published, strict=True)):
            job = GroupBackfill(
                parts.plan, [group], parts.raw, parts.features, parts.offline, store,
                horizon_us=parts.horizon_us, clock_us=None,
            )  # fmt: skip
            job.advance(at, published)


def measured_rate(parts: Parts) -> float | None:
    """Events per second of the last backfill in this project; None if none was long enough to tell."""
    found = parts.catalog.setting(_RATE)
    return None if found is None else float(found)


def events_to_read(parts: Parts, names: Iterable[str]) -> int:
    """How many events a backfill of these groups would read at most; each once for all groups of its stream."""
    from headrace.engines.stream.worker import committed_positions

    ends = committed_positions(parts.features)
    left: dict[str, int] = {}
    for name in names:
        group = parts.plan.group(name)
        found, end = _state(parts, group), ends.get(group.stream, [])
        done = 0 if found is None else sum(found.at)
        left[group.stream] = max(left.get(group.stream, 0), sum(end) - done)
    return sum(left.values())


def lost_groups(parts: Parts) -> list[str]:
    """Groups that are served but whose backfilled state is not in the online store: it was lost, or never finished.

    A scheduled group is not among them: its next run makes up for all that is missing.
    """
    found = []
    for group in parts.plan.groups.values():
        if group.version in parts.plan.scheduled:
            continue
        published = parts.catalog.setting(PUBLISHED + group.version)
        if published is not None:
            state = _state(parts, group)
            if state is None or state.target or any(a < b for a, b in zip(state.at, published, strict=True)):
                found.append(group.name)
    return found


def published_at(parts: Parts, group: GroupPlan) -> list[int] | None:
    """Where a group stood that was backfilled when it was applied; None of one that was computed from the beginning."""
    found: list[int] | None = parts.catalog.setting(PUBLISHED + group.version)
    return found


def small() -> int:
    """So few events that the rest may wait until the layers rest."""
    from headrace.ingestion.backfill import PIECE

    return PIECE // 10


def _state(parts: Parts, group: GroupPlan) -> GroupState | None:
    from headrace.ingestion.backfill import read_state

    return read_state(parts.online, group.version)


def positions_of(parts: Parts, names: Iterable[str]) -> dict[str, list[int]]:
    """By stream, how far the groups have come."""
    found: dict[str, list[int]] = {}
    for name in names:
        group = parts.plan.group(name)
        state = _state(parts, group)
        if state is not None:
            found[group.stream] = state.at
    return found


def _advance(parts: Parts, groups: Sequence[GroupPlan], since_us: int | None, progress: Progress | None) -> int:
    """One pass up to where stream compute stands now; returns how many events were read."""
    from headrace.engines.stream.worker import committed_positions
    from headrace.ingestion.backfill import GroupBackfill

    ends = committed_positions(parts.features)
    clocks = decode_position(parts.online.position()).clock_us
    # Groups of one stream that are equally far are computed together; each event is read once for all of them.
    together: dict[tuple[str, tuple[int, ...], tuple[int, ...], bool], dict[str, GroupPlan]] = {}
    for group in groups:
        if any(ends.get(group.stream, [])):
            found = _state(parts, group)
            at = [0] * len(ends[group.stream]) if found is None else found.at
            target = () if found is None else tuple(found.target or ())
            if any(a < b for a, b in zip(at, ends[group.stream], strict=True)):
                served = group.version in parts.plan.scheduled
                together.setdefault((group.stream, tuple(at), target, served), {})[group.version] = group
    read = 0
    for (stream, begin, _, served), chosen in together.items():
        # What is read meanwhile is read by its own clock: nothing that counts by that one may be left out.
        job = GroupBackfill(
            parts.plan, list(chosen.values()), parts.raw, parts.features, parts.offline, parts.online,
            horizon_us=parts.horizon_us, clock_us=None if served else clocks.get(stream), since_us=since_us,
            served=served, run_us=parts.clock.now_us() if served else None, pace=parts.pace,
        )  # fmt: skip
        job.advance(begin, ends[stream], progress)
        read += job.read
    return read


def _check_complete(parts: Parts, groups: Sequence[GroupPlan]) -> None:
    served = decode_position(parts.online.position()).streams
    for group in groups:
        found, wanted = _state(parts, group), served.get(group.stream, [])
        if any(wanted) and (found is None or any(a < b for a, b in zip(found.at, wanted, strict=True))):
            raise StoreError(
                f"group {group.name} is computed up to {[] if found is None else found.at} of stream {group.stream}, "
                f"but {wanted} is served; nothing was published: run headrace backfill {group.name} and apply again"
            )
