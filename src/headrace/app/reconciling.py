"""The stores against the logs: looked at on a schedule by a thread of its own, all of it on demand, or made anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from headrace.app.locks import FolderLock
from headrace.app.sharing import await_rest
from headrace.core.errors import StoreError, Unreachable
from headrace.core.time import US_PER_SECOND

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.core.positions import Position
    from headrace.ingestion.archive_audit import ArchiveAudit
    from headrace.ingestion.reconcile import Reconciled, Reconciler
    from headrace.orchestration.jobs import RunControl
    from headrace.orchestration.schedule import Job

SHARES = 8
"""A run looks at one of so many shares of all entities: each reads the archive once, and holds one share in memory."""
JOB = "reconcile"
ERASED_ROWS = "erased rows"
"""The catalog's setting that lists rows of tables which were erased, by their offsets, where the log has them still."""
ACCEPTED = "accepted losses"
"""The catalog's setting that lists, by table of the offline store, what of its rows is lost for good."""
_NEXT = "next share to reconcile"
_REST = 4
"""A run is followed by a rest of at least so many times its length: this work is never more than a fifth of a core."""
_AT_ONCE = 50_000
_LOOK_S = 0.5


def reconciler(parts: Parts, *, kept: bool = True) -> Reconciler:
    """What looks at the shares of a project's stores; with hashes `kept` from one look to the next."""
    from headrace.ingestion.digests import DigestFolder
    from headrace.ingestion.reconcile import Reconciler

    return Reconciler(
        parts.plan, parts.features, parts.online, parts.expected(),
        archive=archive_audit(parts),
        digests=DigestFolder(parts.side.folder(parts.settings.state) / "digests") if kept else None,
        pace=parts.pace,
    )  # fmt: skip


def archive_audit(parts: Parts) -> ArchiveAudit:
    """What looks after a project's archive."""
    from headrace.ingestion.archive_audit import ArchiveAudit

    return ArchiveAudit(
        parts.plan, parts.raw, parts.features, parts.offline, erased=lambda: parts.catalog.setting(ERASED_ROWS, []),
        accepted=lambda: accepted_losses(parts),
    )  # fmt: skip


def accepted_losses(parts: Parts) -> dict[str, list[list[int]]]:
    """By table of the offline store, rows that are lost for good: partition, first offset, last offset (exclusive)."""
    found: dict[str, list[list[int]]] = parts.catalog.setting(ACCEPTED, {})
    return found


def accept_loss(parts: Parts, name: str, *, who: str, why: str) -> list[list[int]]:
    """Ask no more for what the archive of a stream or table has lost and nobody can bring back; the log of changes says
    which offsets. Returns them: partition, first, last (exclusive).

    From then on all is computed as if these events had never been: the next look takes them out of the online store,
    too, which agrees with history then. Raises StoreError if nothing is lost, NotFound if there is no such name.
    """
    if not why.strip():
        raise StoreError("say why the loss is accepted: it cannot be taken back")
    table, ranges = archive_audit(parts).lost_for_good(name)
    rows = sum(high - low for _, low, high in ranges)
    # First the log of changes: what is not in there is not accepted.
    detail = {"archive": table, "rows": rows, "offsets": ranges, "why": why}
    parts.catalog.changes.add(who, "accept loss", name, detail)
    parts.catalog.revise_setting(
        ACCEPTED, lambda known: {**(known or {}), table: [*(known or {}).get(table, []), *ranges]}
    )
    return ranges


def reconcile_all(
    parts: Parts, *, repair: bool = True, progress: Callable[[int, int], None] | None = None
) -> Reconciled:
    """Look at all shares, one after the other; whoever runs goes on running."""
    from headrace.ingestion.expected import Share

    worker = reconciler(parts, kept=False)
    for number in range(SHARES):
        if progress is not None:
            progress(number, SHARES)
        worker.run(Share(number, SHARES), repair=repair, archive=number == 0)
    return worker.totals


class _Stopped(Exception):
    """The process is to end."""


def reconcile_job(parts: Parts, worker: Reconciler, control: RunControl | None = None) -> Job:
    """The job that looks at the next share; what it had to repair raises an alert."""
    from headrace.ingestion.expected import Share
    from headrace.orchestration.schedule import Job

    not_before = 0.0

    def on_way() -> None:
        if control is not None:
            control.alive()
            if control.stop():
                raise _Stopped

    def work(_: int) -> Mapping[str, Any] | None:
        nonlocal not_before
        began = time.monotonic()
        if began < not_before:
            return None
        number = int(parts.catalog.setting(_NEXT, 0)) % SHARES
        try:
            found = worker.run(Share(number, SHARES), on_way=on_way)
        except _Stopped:
            return None  # the same share is the next one
        parts.catalog.set_setting(_NEXT, (number + 1) % SHARES)
        took = time.monotonic() - began
        not_before = began + took * (1 + _REST)
        if found.wrong:
            detail = {name: getattr(found, name) for name in ("missing", "differing", "extra", "repaired")}
            parts.catalog.raise_alert("online store repaired", "online", detail, "critical")
        if found.archive_missing:
            detail = {"missing": found.archive_missing, "restored": found.archive_restored, "lost": found.lost}
            parts.catalog.raise_alert(
                "archive repaired" if not found.lost else "archive lost", "offline", detail, "critical"
            )
        return found.to_dict() if found.wrong or found.archive_missing else None

    return Job(JOB, parts.settings.reconcile_s * US_PER_SECOND, work)


class Reconciling:
    """The job on a thread of its own: no other job waits for it."""

    def __init__(self, parts: Parts) -> None:
        from headrace.orchestration.jobs import RunControl
        from headrace.orchestration.schedule import Scheduler

        # Opened here, before there are two threads.
        self._parts, _ = parts, (parts.raw, parts.features, parts.online, parts.offline, parts.past, parts.catalog)
        self._stopped = threading.Event()
        self.worker = reconciler(parts)
        self.problem = ""
        self.failure: BaseException | None = None
        parts.catalog.abandon_runs("the process ended while it ran", JOB)
        job = reconcile_job(parts, self.worker, RunControl(self._stopped.is_set))
        self._scheduler = Scheduler(parts.catalog, [job], parts.clock.now_us())
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)
        self._thread.start()

    def counters(self) -> dict[str, float]:
        """Totals since the start."""
        totals = self.worker.totals
        return {
            "reconciled": totals.compared,
            "suspected": totals.suspected,
            "repaired": totals.repaired,
            "archive_missing": sum(totals.archive_missing.values()),
            "archive_restored": sum(totals.archive_restored.values()),
        }

    def stop(self) -> None:
        """End the thread soon, in the middle of a look; raises what it failed with."""
        self._stopped.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not self._stopped.wait(_LOOK_S):
                try:
                    self._scheduler.run_due(self._parts.clock.now_us())
                    self.problem = ""
                except Unreachable as error:
                    self.problem = str(error)  # the catalog is away; a look may be made again
        except BaseException as error:
            self.failure = error


def rebuild_online(
    parts: Parts,
    *,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
    said: Callable[[str], object] = lambda _: None,
) -> Position:
    """Fill an empty online store from archive and log; with `replace` one that holds something is emptied first.

    Raises Busy if compute, ingestion, a scheduled group or a backfill runs, StoreError if the store is not empty.
    """
    from headrace.ingestion.reconcile import rebuild

    state = parts.settings.state
    with (
        FolderLock(state, "compute"),
        FolderLock(state, "ingest"),
        FolderLock(state, "groups"),
        FolderLock(state, "backfill"),
    ):
        await_rest(parts)
        held = parts.online.count()
        if held and not replace:
            raise StoreError(
                f"the online store holds {held:,} records; to throw them away and make all anew, run it with "
                "--replace; to compare and repair them in place, run: headrace reconcile"
            )
        if held or parts.online.position():
            empty_store(parts)
        return rebuild(parts.plan, parts.features, parts.online, parts.expected(), progress=progress, said=said)


def empty_store(parts: Parts) -> None:
    """Delete all records; the position goes first, so that nobody goes on from a store that is half emptied."""
    store = parts.online
    store.write([], b"")
    keys: list[bytes] = []
    for key, _ in store.scan():
        keys.append(key)
        if len(keys) == _AT_ONCE:
            store.write([(one, None) for one in keys], b"")
            keys.clear()
    store.write([(one, None) for one in keys], b"")
