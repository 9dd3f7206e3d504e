"""A run beside: another version of the code computes the same events into a side of its own, is compared, and served.

What starts or ends a side is here; `app/sides.py` says what one is, `app/comparing.py` compares two. Whatever has to be
computed for a side is computed by the interpreter of that side.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from headrace.app.heartbeats import EVERY_LAYER, read_heartbeat
from headrace.app.locks import FolderLock, layers_at_rest
from headrace.app.sharing import await_rest
from headrace.app.sides import (
    BESIDE,
    BESIDE_LAYERS,
    Side,
    Sides,
    check_side_name,
    locks_beside,
    write_sides,
)
from headrace.app.users import os_user
from headrace.core.errors import Busy, ConfigError, PlanError, StoreError
from headrace.core.positions import GroupState, decode_position
from headrace.engines.stream.commits import WINDOWS
from headrace.engines.stream.worker import read_heads
from headrace.eventlog.forked import Segment

if TYPE_CHECKING:
    from headrace.app.settings import Settings
    from headrace.app.wiring import Parts
    from headrace.eventlog.base import EventLog

_HEADS = 1_000


class SideStatus(msgspec.Struct, frozen=True):
    """A side, and how far it is: commits in its topic, and how many of them its online store reflects."""

    name: str
    served: bool
    python: str
    ready: bool
    commits: int
    visible: int

    def __str__(self) -> str:
        what = "served" if self.served else "beside" if self.ready else "beside, not filled yet"
        return f"side {self.name:<12} {what}: commit {self.commits:,}, {self.visible:,} visible; run by {self.python}"


def begin_side(parts: Parts, name: str, python: str) -> Side:
    """Note a side that is to run beside the served one; the same again goes on with it.

    Raises Busy if another one runs beside, ConfigError if the name or the interpreter is none.
    """
    check_side_name(name)
    if shutil.which(python) is None:
        raise ConfigError(f"there is no interpreter {python}: give the python of the environment with the new version")
    _check_no_erasure(parts)
    sides = _sides_now(parts)
    if sides.served.name == name:
        raise ConfigError(f"side {name} is what is served; give the new one another name")
    if sides.beside is not None:
        if sides.beside.name != name:
            raise Busy(f"side {sides.beside.name} runs beside already; drop it first (headrace beside drop)")
        return sides.beside
    side = Side(name, python, ready=False)
    served = _with_python(sides.served, parts)
    write_sides(parts.catalog, Sides(served, side))
    return side


def _with_python(side: Side, parts: Parts) -> Side:
    """The served side with the interpreter that runs it now, so that it can be run by that one again."""
    beat = read_heartbeat(parts.settings.state, "compute")
    known = beat is not None and _alive(beat.pid)
    python = beat.python if known and beat is not None and beat.python else side.interpreter
    return msgspec.structs.replace(side, python=python)


def _alive(pid: int) -> bool:
    """True if there is a process of that id."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def fill_side(
    parts: Parts,
    *,
    from_beginning: bool = False,
    progress: Callable[[int, int], None] | None = None,
    said: Callable[[str], object] = lambda _: None,
) -> Side:
    """Fill the store of a side that was begun, and mark where its commits leave the served side's.

    The records are made by this process's code from archive and log, up to where compute stands; with `from_beginning`
    nothing is made, and every event of the raw topics will be computed. Whoever runs goes on running. Killed, it is
    begun again. Raises PlanError if the logs no longer hold the beginning.
    """
    from headrace.ingestion.reconcile import rebuild

    _check_no_erasure(parts)
    sides = _sides_now(parts)
    side = sides.need_beside()
    if side.ready:
        return side
    with locks_beside(parts.settings.state), beside_of(parts) as beside:
        empty_side(beside)
        checkpoint = beside.checkpoint
        if from_beginning:
            _check_whole(parts)
            fork = 0
            _note_published(parts, beside)
        else:
            if parts.checkpoint.exists():
                # Before the fork is read: it must not be ahead of it.
                checkpoint.parent.mkdir(parents=True, exist_ok=True)
                checkpoint.write_bytes(parts.checkpoint.read_bytes())
            position = rebuild(
                parts.plan, parts.features, beside.online, parts.expected(), progress=progress, said=said
            )
            fork = position.windows
        side = _forked(parts, sides, side, fork)
    write_sides(parts.catalog, Sides(sides.served, side))
    return side


def _forked(parts: Parts, sides: Sides, side: Side, fork: int) -> Side:
    topic, log = f"{WINDOWS}_{side.name}", parts.plain_features
    log.create(topic)
    before = tuple(segment for segment in sides.served.segments if segment.begin < fork)
    # A side of the same name may have been here before: its offsets are used up.
    own = Segment(fork, topic, log.end(topic, 0))
    return msgspec.structs.replace(side, segments=(*before, own), ready=True)


def _check_whole(parts: Parts) -> None:
    raw, topics = parts.raw, parts.raw.topics()
    cut = [name for name in parts.plan.topics() for p in range(topics.get(name, 0)) if raw.begin(name, p)]
    if cut:
        raise PlanError(
            f"the log has dropped the beginning of stream {cut[0]} (retention): start without --from-beginning, and "
            "the store is made from the archive"
        )


def _note_published(parts: Parts, beside: Parts) -> None:
    """Groups that were backfilled once are computed in turn here; say that nothing of them is lacking."""
    from headrace.app.backfill import published_at
    from headrace.ingestion.backfill import write_state

    for group in parts.plan.computed_groups:
        published = published_at(parts, group)
        if published is not None and group.version not in parts.plan.scheduled:
            write_state(beside.online, group.version, GroupState(published))


def catch_up(parts: Parts) -> int:
    """Bring the side beside to the end of the served side's commits, its online store too; returns where that is.

    Raises Busy, naming the holder, if its layers run.
    """
    from headrace.app.scheduled import run_group

    with locks_beside(parts.settings.state), beside_of(parts) as beside:
        worker = beside.following()
        while worker.step():
            pass
        worker.checkpoint()
        ingest = beside.ingest()
        while ingest.step():
            pass
        for group in beside.plan.computed_groups:
            if group.version in beside.plan.scheduled:
                run_group(beside, group)
        return beside.features.end(WINDOWS, 0)


def catch_up_as(parts: Parts, side: Side) -> None:
    """The same by the interpreter of the side, which has nothing to wait for if that is this one."""
    if side.interpreter == sys.executable:
        catch_up(parts)
    else:
        run_as(side, parts.settings, ["catch-up"])


def switch(parts: Parts, *, back: bool = False) -> Sides:
    """Serve the side that runs beside, from one commit on; the served one runs beside it from then on.

    With `back` only to the side that was served before, else only to another one. Compute, ingestion and schedules rest
    meanwhile; the service goes on with what is served, then answers by the other side, whose positions are not behind.
    Raises Busy, naming the holder, if a layer runs that no supervisor started, and PlanError if the two sides disagree
    about which events count.
    """
    _check_no_erasure(parts)
    sides = _sides_now(parts)
    side, state = sides.need_beside(), parts.settings.state
    if not side.ready:
        raise PlanError(f"side {side.name} is not filled yet: go on with headrace beside start")
    if back != bool(sides.former):
        cure = "headrace beside switch" if back else "headrace beside back, or drop it"
        raise PlanError(f"side {sides.served.name} is served, {side.name} runs beside: use {cure}")
    with beside_of(parts) as beside:
        checked = check_verdicts(parts.features, beside.features, side.fork)
        with (
            layers_at_rest(state, EVERY_LAYER, ("serve",)),
            layers_at_rest(state / BESIDE, BESIDE_LAYERS, ()),
            FolderLock(state, "compute"),
            FolderLock(state, "ingest"),
            FolderLock(state, "groups"),
        ):
            await_rest(parts)
            catch_up_as(parts, side)
            _check_switch(parts, beside, checked)
            changed = Sides(side, sides.served, "" if back else sides.served.name)
            write_sides(parts.catalog, changed)
            what = "beside back" if back else "beside switch"
            detail = {"from": sides.served.name, "commit": parts.features.end(WINDOWS, 0)}
            parts.catalog.changes.add(os_user(), what, side.name, detail)
    return changed


def drop(parts: Parts) -> Side:
    """Remove the side that runs beside the served one, and what it holds; returns what it was."""
    sides = _sides_now(parts)
    side, state = sides.need_beside(), parts.settings.state
    with layers_at_rest(state / BESIDE, BESIDE_LAYERS, ()), locks_beside(state):
        with beside_of(parts) as beside:
            if parts.settings.online != "embedded":
                _empty(beside)
            _drop_commits(parts, side, sides.served)
            checkpoint = beside.checkpoint
        folder = side.folder(state)
        checkpoint.unlink(missing_ok=True)
        for name in ("online", "derivation"):
            shutil.rmtree(folder / name, ignore_errors=True)
        write_sides(parts.catalog, Sides(sides.served))
        parts.catalog.changes.add(os_user(), "beside drop", side.name, {"served": sides.served.name})
    return side


def _drop_commits(parts: Parts, side: Side, served: Side) -> None:
    """Let go of the commits of a side, but for those that the served one goes on from."""
    log = parts.plain_features
    if side.topic not in log.topics():
        return
    ends = [after.begin for after in served.segments[1:]]
    kept = [
        segment.base + end - segment.begin
        for segment, end in zip(served.segments, ends, strict=False)
        if segment.topic == side.topic
    ]
    if not kept:
        log.trim(side.topic, 0, log.end(side.topic, 0))
    elif log.editable:
        # They lie behind what is kept, where nothing can be trimmed, and hold keys that may have to be erased one day.
        log.rewrite(side.topic, 0, lambda batch: b"" if batch.base >= max(kept) and batch.payload else None)


def side_status(parts: Parts) -> list[SideStatus]:
    """The served side, then the one beside it if there is one."""
    sides = _sides_now(parts)
    found = [_status_of(parts, sides.served, served=True)]
    if sides.beside is not None:
        with beside_of(parts) as beside:
            found.append(_status_of(beside, sides.beside, served=False))
    return found


def _status_of(parts: Parts, side: Side, *, served: bool) -> SideStatus:
    made = parts.features.end(WINDOWS, 0) if side.ready and WINDOWS in parts.features.topics() else 0
    visible = decode_position(parts.online.position()).windows
    return SideStatus(side.name, served, side.interpreter, side.ready, made, visible)


def take_over(parts: Parts) -> None:
    """Let whoever starts the layers now run the served side, where nothing runs beside it to go back to."""
    sides = _sides_now(parts)
    if sides.beside is None and sides.served.python:
        write_sides(parts.catalog, Sides(msgspec.structs.replace(sides.served, python="")))


def layer_interpreter(settings: Settings, *, beside: bool) -> str | None:
    """The Python that runs the layers of the served side, or of the one beside it; None if there is none."""
    from headrace.app.clock import SystemClock
    from headrace.app.wiring import Parts
    from headrace.features.plan import ProjectPlan

    parts = Parts(settings, ProjectPlan({}, {}, {}, {}, {}), SystemClock())
    try:
        sides = parts.sides
    finally:
        parts.close()
    side = sides.beside if beside else sides.served
    return None if side is None else side.interpreter


def run_as(side: Side, settings: Settings, command: Sequence[str], given: bytes = b"") -> str:
    """Run `headrace beside COMMAND` by the interpreter of a side, `given` on its stdin; returns what it says.

    Raises StoreError with its last words if it fails.
    """
    environment = [] if settings.env == "default" else ["--env", settings.env]
    done = subprocess.run(
        [side.interpreter, "-m", "headrace", "beside", *command, "--project", str(settings.folder), *environment],
        env={**os.environ, "HEADRACE_STATE": str(settings.state)}, input=given, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise StoreError(f"side {side.name} (run by {side.interpreter}): {said[-1] if said else 'it said nothing'}")
    return done.stdout.decode()


@contextmanager
def beside_of(parts: Parts) -> Iterator[Parts]:
    """The parts of the side that runs beside, open for as long as the block lasts."""
    beside = replace(parts, beside=True, _opened=[])
    try:
        yield beside
    finally:
        beside.close()


def check_verdicts(served: EventLog, beside: EventLog, begin: int) -> int:
    """Raise PlanError if two sides disagree about which events count, from a commit on; returns where it ended."""
    end = min(served.end(WINDOWS, 0), beside.end(WINDOWS, 0))
    while begin < end:
        ours, theirs = (read_heads(log, begin, min(end - begin, _HEADS)) for log in (served, beside))
        for (batch, one), (_, other) in zip(ours, theirs, strict=True):
            if one.positions != other.positions or one.streams != other.streams:
                raise PlanError(
                    f"the two sides disagree in commit {batch.base} about which events count; a verdict never changes, "
                    "so that one cannot be served in the place of the other"
                )
        begin = ours[-1][0].end
    return end


def _check_switch(parts: Parts, beside: Parts, checked: int) -> None:
    check_verdicts(parts.features, beside.features, checked)
    now, then = decode_position(parts.online.position()), decode_position(beside.online.position())
    if not then.covers(now.streams) or then.tables < now.tables or then.windows < parts.features.end(WINDOWS, 0):
        raise StoreError(
            "the side beside has not come to where the served one is; nothing was switched: look at headrace beside "
            "status, and try again"
        )


def _sides_now(parts: Parts) -> Sides:
    """The sides as they are; the parts go over to the one that is served."""
    parts.refresh_side()
    return parts.sides


def _check_no_erasure(parts: Parts) -> None:
    """What is erased by halves would be made anew of what is still there."""
    from headrace.app.erasing import receipts

    for receipt in receipts(parts):
        if not receipt.ended:
            raise Busy(
                f"erasure {receipt.id} of one {receipt.entity} was cut short or goes on: ask for it again (headrace "
                f"erase {receipt.entity} -) and let it end first"
            )


def empty_side(beside: Parts) -> None:
    """Take everything out of a side's store and forget its checkpoint; its commits stay."""
    _empty(beside)
    beside.checkpoint.unlink(missing_ok=True)


def _empty(beside: Parts) -> None:
    from headrace.app.reconciling import empty_store

    if beside.online.count() or beside.online.position():
        empty_store(beside)
