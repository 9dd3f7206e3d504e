"""The workers of compute and ingestion inside the caller's process: notebooks and scripts need no server."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from headrace.app.locks import FolderLock, holder_of
from headrace.core.errors import Busy, StoreError, StoreMoved, Unreachable
from headrace.core.positions import decode_position, encode_position

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.derivation.worker import ComputingLayer
    from headrace.ingestion.archive import ArchiveWorker
    from headrace.ingestion.materialize import OnlineIngest

_TRIES = 5
_ARCHIVE_AFTER = 500
"""Commits that reads of history may find in the log alone before they are archived."""
_ARCHIVE_PAUSE_S = 10.0
"""How long an archive that does not answer, or that another process writes, is left alone."""
_logger = logging.getLogger(__name__)


class EmbeddedWorkers:
    """Brings the stores up to the log when no other process does.

    The workers are kept between calls and made anew when another process has moved on what they stand on.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._compute: ComputingLayer | None = None
        self._compute_end = -1
        self._ingest: OnlineIngest | None = None
        self._archive: ArchiveWorker | None = None
        self._archive_at = 0.0

    def drive(self) -> bool:
        """Compute and ingest until all is caught up; False if other processes hold these roles and will do it, or the
        online store is away: the logs hold what it lacks, and the next call brings it."""
        try:
            return self._drive()
        except Unreachable:
            return False

    def _drive(self) -> bool:
        state = self._parts.settings.state
        if holder_of(state, "up") is not None:
            return False
        try:
            with FolderLock(state, "compute"), FolderLock(state, "ingest"):
                self._parts.check_side()
                self._run()
        except Busy:
            return False
        return True

    def settle(self, timeout_s: float = 60.0) -> None:
        """Return when everything that was appended before is visible online, whoever does the work.

        Raises StoreError if that takes longer than `timeout_s`, Unreachable if the online store is away.
        """
        if self._drive():
            return
        raw, features, plan = self._parts.raw, self._parts.features, self._parts.plan
        roots = {name: plan.root(name) for name in plan.topics()}
        # Derived records stand at the offsets of their sources.
        ends = {
            name: [raw.end(root, p) for p in range(raw.topics()[root])]
            for name, root in roots.items()
            if root in raw.topics()
        }
        rows = features.end("tables", 0) if "tables" in features.topics() else 0
        deadline = time.monotonic() + timeout_s
        while True:
            position = decode_position(self._parts.online.position())
            if position.covers({name: end for name, end in ends.items() if any(end)}) and position.tables >= rows:
                return
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the online store is not caught up after {timeout_s:g} s; headrace status shows which layer lags"
                )
            if self._drive():
                return
            time.sleep(0.01)

    def _run(self) -> None:
        compute = self._compute_worker()
        read = 0
        while done := compute.step():
            read += done
        self._compute_end = self._parts.features.end("windows", 0)
        if read >= 50_000:
            compute.checkpoint()
        self._ingest_all()
        if time.monotonic() >= self._archive_at:
            try:
                self._run_archive(much=read >= 50_000)
            except Unreachable:
                # The logs hold what the archive lacks, and history reads both.
                self._archive_at = time.monotonic() + _ARCHIVE_PAUSE_S

    def _run_archive(self, *, much: bool) -> None:
        if self._archive is None:
            self._archive = self._parts.archive()
        if self._archive.lag() >= _ARCHIVE_AFTER or much:
            moved = 0
            while moved < _TRIES:
                try:
                    if not self._archive.step():
                        return
                    moved = 0
                except StoreMoved:
                    moved += 1  # another process has archived since: the next step goes on from what is there
            self._archive_at = time.monotonic() + _ARCHIVE_PAUSE_S
            _logger.warning(
                "another process archives all the time, and holds no lock of %s: it is left alone for %g s; history "
                "reads what the archive lacks from the logs. Let one process alone ingest this project",
                self._parts.settings.state,
                _ARCHIVE_PAUSE_S,
            )

    def _ingest_all(self) -> None:
        for _ in range(_TRIES):
            ingest = self._ingest_worker()
            try:
                while ingest.step():
                    pass
                return
            except StoreMoved:
                self._ingest = None  # go on from where the store stands now
        raise StoreError("the online store is written to by another process: stop one of them")

    def _compute_worker(self) -> ComputingLayer:
        features = self._parts.features
        end = features.end("windows", 0) if "windows" in features.topics() else 0
        if self._compute is None or end != self._compute_end or self._compute.overtaken:
            self._compute = self._parts.compute()
        return self._compute

    def _ingest_worker(self) -> OnlineIngest:
        if self._ingest is None or encode_position(self._ingest.position) != self._parts.online.position():
            self._ingest = self._parts.ingest()
        return self._ingest
