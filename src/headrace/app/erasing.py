"""Erasure of one entity everywhere, by a job that goes on where it was after a kill, and its receipt.

The job and its receipt lie in the catalog under a keyed hash of entity and key: the key itself is written nowhere.
What there is to erase is counted first; then each step edits one place and is noted as done. The order matters: a
commit is computed again from events that still say whose they are, and a truth is found by its prediction.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from headrace.app.heartbeats import EVERY_LAYER
from headrace.app.locks import FolderLock, layers_at_rest
from headrace.app.reconciling import ERASED_ROWS
from headrace.app.sharing import await_rest
from headrace.app.sides import BESIDE, BESIDE_LAYERS, locks_beside
from headrace.core.errors import SchemaError
from headrace.core.time import to_iso
from headrace.monitoring.skew import ERASURES

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.erasure.places import Places, Stores
    from headrace.erasure.subject import Subject

_SECRET = "erasure.secret"
_ROLES: Final = ("compute", "ingest", "groups", "backfill", "letters")


class ErasedPlace(msgspec.Struct, frozen=True):
    """What was erased in one place: `records` events, rows or records of the entity."""

    place: str
    records: int
    what: str


class ErasureReceipt(msgspec.Struct, frozen=True):
    """What an erasure did.

    Attributes:
        id: of the erasure.
        entity: the entity's name; `key` is a keyed hash of its key, which is told nowhere.
        who: who asked for it.
        events: "unlink": events of the entity lost its key and personal fields; "drop": all but their time.
        began, ended: ISO 8601, UTC; `ended` is empty while it is not finished.
        places: where something was erased, in order.
        repaired: records of other entities that were computed again, since they had read what is gone.
        remains: what still holds data of the entity, and until when, in words.
    """

    id: str
    entity: str
    key: str
    who: str
    events: str
    began: str
    ended: str = ""
    places: tuple[ErasedPlace, ...] = ()
    repaired: int = 0
    remains: tuple[str, ...] = ()

    @property
    def records(self) -> int:
        """All records in all places."""
        return sum(place.records for place in self.places)

    def __str__(self) -> str:
        lines = [f"erasure {self.id} of one {self.entity} (key {self.key}), asked for by {self.who}"]
        lines += [f"  {place.place}: {place.records:,} {place.what}" for place in self.places]
        if not self.places:
            lines.append("  nothing was found")
        if self.repaired:
            lines.append(f"  {self.repaired:,} records of others were computed again")
        lines += [f"  remains: {one}" for one in self.remains]
        lines.append(f"begun {self.began}, ended {self.ended}" if self.ended else f"begun {self.began}, not ended")
        return "\n".join(lines)


class _Job(msgspec.Struct):
    """An erasure on its way: how far it is, and what pseudonyms are made with until it ends.

    `changed` are the groups that read of others who is erased now; audits read that, and `ended_us`, as well.
    """

    receipt: ErasureReceipt
    secret: str
    done: list[str] = []
    ids: bool = False
    changed: list[str] = []
    ended_us: int = 0


def receipts(parts: Parts) -> list[ErasureReceipt]:
    """Of all erasures, the newest last; those that were cut short have no `ended`."""
    found = [msgspec.convert(job, _Job) for jobs in _jobs(parts).values() for job in jobs]
    return sorted((job.receipt for job in found), key=lambda receipt: receipt.began)


def erase(
    parts: Parts,
    entity: str,
    key: Any,
    *,
    who: str,
    events: str = "unlink",
    dry_run: bool = False,
    on_way: Callable[[str], object] | None = None,
    begun: Callable[[ErasureReceipt], object] | None = None,
) -> ErasureReceipt:
    """Erase an entity; one that was cut short goes on where it was. `on_way` is told each step, `begun` the receipt as
    it stands in the catalog before the first one.

    The layers of `headrace up` rest meanwhile, but for the service, and so do those of a side that runs beside, where
    it is erased as well. With `dry_run` nothing rests and nothing changes.
    Raises SchemaError if there is no such entity or no such key can be, Busy naming the holder if a layer runs that was
    started by itself.
    """
    from headrace.erasure.places import Places
    from headrace.erasure.subject import subject_of

    if events not in ("unlink", "drop"):
        raise SchemaError(f'events="{events}": give "unlink" or "drop"', field="events")
    parts.refresh_side()
    drop, none = events == "drop", bytes(32)
    asked = subject_of(parts.plan, entity, key, none, whole=drop)  # refuses what is wrong before anything rests
    digest = _digest(parts, entity, asked.value)
    if dry_run:
        found, _ = _found(Places(parts.plan, asked, _stores(parts)), parts, asked)
        found += _found_beside(parts, asked, none)
        return msgspec.structs.replace(_begin(parts, digest, entity, who, drop).receipt, places=found)
    with ExitStack() as held:
        if parts.settings.catalog != "embedded":
            held.enter_context(parts.catalog.hold("erase"))
        held.enter_context(_at_rest(parts))
        parts.refresh_side()  # nobody switches or drops one from now on
        job = _job(parts, digest) or _begin(parts, digest, entity, who, drop)
        secret, whole = bytes.fromhex(job.secret), job.receipt.events == "drop"
        subject = subject_of(parts.plan, entity, key, secret, whole=whole)
        erasing = _Erasing(parts, digest, job, subject, on_way or (lambda _: None))
        if begun is not None:
            erasing.save()
            begun(job.receipt)
        return erasing.run()


@contextmanager
def _at_rest(parts: Parts) -> Iterator[None]:
    state = parts.settings.state
    with (
        layers_at_rest(state, EVERY_LAYER, answering=("serve",)),
        layers_at_rest(state / BESIDE, BESIDE_LAYERS, ()),
        ExitStack() as held,
    ):
        for role in _ROLES:
            held.enter_context(FolderLock(state, role))
        await_rest(parts)
        yield


def _begin(parts: Parts, digest: str, entity: str, who: str, drop: bool) -> _Job:
    receipt = ErasureReceipt(
        secrets.token_hex(4), entity, f"hmac-sha256:{digest[:32]}", who, "drop" if drop else "unlink",
        to_iso(parts.clock.now_us()),
    )  # fmt: skip
    return _Job(receipt, secrets.token_hex(32))


class _Erasing:
    """One run of the job."""

    def __init__(self, parts: Parts, digest: str, job: _Job, subject: Subject, on_way: Callable[[str], object]) -> None:
        self._parts, self._digest, self._job, self._subject, self._on_way = parts, digest, job, subject, on_way

    @cached_property
    def _places(self) -> Places:
        from headrace.erasure.places import Places

        return Places(self._parts.plan, self._subject, _stores(self._parts))

    @property
    def _all_places(self) -> Places:
        """With the topics of every side, as they lie in the feature log."""
        from headrace.erasure.places import Places

        parts = self._parts
        return Places(parts.plan, self._subject, replace(_stores(parts), features=parts.plain_features))

    def run(self) -> ErasureReceipt:
        """All steps that are not done."""
        self._step("catch up", lambda: _catch_up(self._parts))
        with locks_beside(self._parts.settings.state):
            return self._edit()

    def _edit(self) -> ErasureReceipt:
        self._step("find", self._find)
        places, parts, beside = self._places, self._parts, self._parts.sides.beside
        self._step("checkpoint", lambda: places.erase_checkpoint(parts.checkpoint))
        self._step("feature log", self._features)
        if beside is not None:
            self._step(f"log of side {beside.name}", lambda: self._beside("log"))
        self._step("event log", places.erase_raw)
        self._step("archive", places.erase_archive)
        self._step("trim", self._trim)
        self._step("predictions", places.erase_internal)
        self._step("online store", places.erase_online)
        self._step("look-ups", lambda: erase_lookups(parts))
        self._step("others", self._others)
        if beside is not None:
            self._step(f"store of side {beside.name}", lambda: self._beside("store"))
        self._step("files", self._files)
        self._step("wipe", self._wipe)
        return self._end()

    def _step(self, name: str, do: Callable[[], object]) -> None:
        if name in self._job.done:
            return
        self._on_way(name)
        do()
        self._job.done.append(name)
        self.save()

    def _find(self) -> None:
        found, ids = _found(self._places, self._parts, self._subject)
        found += _found_beside(self._parts, self._subject, bytes.fromhex(self._job.secret))
        self._job.receipt = msgspec.structs.replace(self._job.receipt, places=found)
        self._job.ids = ids

    def _features(self) -> None:
        """Rows that stay in the log are not to come back from it."""
        catalog = self._parts.catalog
        stay = self._places.rows_that_stay()
        if stay:
            catalog.set_setting(ERASED_ROWS, sorted({*catalog.setting(ERASED_ROWS, []), *stay}))
        self._places.erase_features()

    def _beside(self, what: Literal["log", "store"]) -> None:
        """The part of the side that runs beside."""
        from headrace.app.beside_erasing import SideErasure, erase_beside

        subject, side = self._subject, self._parts.sides.need_beside()
        secret = bytes.fromhex(self._job.secret)
        asked = SideErasure(what, subject.entity, subject.value, secret, subject.whole, self._job.ids)
        done, receipt = erase_beside(self._parts, side, asked), self._job.receipt
        self._job.receipt = msgspec.structs.replace(
            receipt, repaired=receipt.repaired + done.repaired, remains=(*receipt.remains, *done.remains)
        )

    def _trim(self) -> None:
        """Where events cannot be edited, all go that lie in the archive, which was, and that nobody needs."""
        from headrace.app.retention import trim_raw

        if not self._parts.raw.editable:
            trim_raw(self._parts, 0)

    def _others(self) -> None:
        self._job.changed = sorted(group.name for group in self._places.read_by(ids=self._job.ids))
        repaired = self._places.repair_others(self._parts.expected(), ids=self._job.ids)
        self._job.receipt = msgspec.structs.replace(self._job.receipt, repaired=repaired)

    def _files(self) -> None:
        from headrace.app.datasets import Datasets

        subject, parts = self._subject, self._parts
        Datasets(parts).without(lambda info, rows: _rows_of(parts, subject, info.query.view, rows))
        for file in _fingerprints(parts):
            file.unlink(missing_ok=True)
        parts.catalog.replace_texts(subject.without)

    def _wipe(self) -> None:
        for log in (self._parts.raw, self._parts.features, self._parts.internal):
            log.wipe()
        self._parts.online.wipe()

    def _end(self) -> ErasureReceipt:
        parts, job = self._parts, self._job
        remains = [*job.receipt.remains, *self._all_places.remains(), *_still_named(parts, self._subject)]
        if _model_versions(parts):
            remains.append("versions of models that were trained before, and copies of data sets made elsewhere")
        job.receipt = msgspec.structs.replace(
            job.receipt, ended=to_iso(parts.clock.now_us()), remains=tuple(dict.fromkeys(remains))
        )  # fmt: skip
        # Without the secret nobody makes the pseudonyms again.
        job.secret, job.ended_us = "", parts.clock.now_us()
        self.save()
        told = {"records": job.receipt.records, "id": job.receipt.id, "events": job.receipt.events}
        parts.catalog.changes.add(job.receipt.who, "erase", job.receipt.entity, told)
        parts.catalog.replace_texts(self._subject.without)
        return job.receipt

    def save(self) -> None:
        """Write to the catalog how far it is."""
        jobs = _jobs(self._parts)
        kept = [one for one in jobs.get(self._digest, []) if one["receipt"]["id"] != self._job.receipt.id]
        jobs[self._digest] = [*kept, msgspec.to_builtins(self._job)]
        self._parts.catalog.set_setting(ERASURES, jobs)


def _stores(parts: Parts) -> Stores:
    from headrace.erasure.places import Stores

    return Stores(parts.raw, parts.features, parts.internal, parts.offline, parts.online)


def _found(places: Places, parts: Parts, subject: Subject) -> tuple[tuple[ErasedPlace, ...], bool]:
    """What there is, and whether ids of events become pseudonyms."""
    from headrace.app.datasets import Datasets

    counted, ids = places.count(parts.checkpoint)
    found = [ErasedPlace(*one) for one in counted]
    sets = Datasets(parts).without(lambda info, rows: _rows_of(parts, subject, info.query.view, rows), dry_run=True)
    found += [ErasedPlace(f"data set {name}", n, "rows") for name, n in sets.items()]
    return tuple(found), ids


def _found_beside(parts: Parts, subject: Subject, secret: bytes) -> tuple[ErasedPlace, ...]:
    """What the side beside has for itself, if there is one."""
    from headrace.app.beside_erasing import SideErasure, erase_beside

    side = parts.sides.beside
    if side is None:
        return ()
    asked = SideErasure("count", subject.entity, subject.value, secret, subject.whole)
    found = erase_beside(parts, side, asked).places
    return tuple(ErasedPlace(f"{place} of side {side.name}", n, what) for place, n, what in found)


def _rows_of(parts: Parts, subject: Subject, view: str, rows: Any) -> Any:
    """Which rows of a data set are the entity's."""
    import numpy as np

    from headrace.erasure.predictions import names_entity

    plan = parts.plan.views.get(view)
    roles = {name for f in plan.request for name in f.names if f.entity == subject.entity} if plan is not None else ()
    gone = np.zeros(rows.num_rows, np.bool_)
    for name in rows.column_names:
        values = rows[name].to_pylist()
        if name in roles:
            gone |= [value == subject.value for value in values]
        elif isinstance(subject.value, str):
            gone |= [names_entity(subject, value) for value in values]
    return gone


def _catch_up(parts: Parts) -> None:
    """Bring stores and archive up to the log, so that what is edited is all there is."""
    from headrace.app.beside_erasing import bring_up

    computing = parts.compute()
    while computing.step():
        pass
    computing.checkpoint()
    for worker in (parts.ingest(), parts.archive()):
        while worker.step():
            pass
    if parts.sides.beside is not None:
        bring_up(parts, parts.sides.beside)


def erase_lookups(parts: Parts) -> None:
    """What derived streams look up is made again from the feature log."""
    folder = parts.side.folder(parts.settings.state) / "derivation"
    parts.forget_lookups()
    if folder.exists():
        shutil.rmtree(folder)


def _fingerprints(parts: Parts) -> Iterator[Path]:
    """Hashes of rows, which are made again from the feature log."""
    folder = parts.settings.state / "fingerprints"
    if folder.exists():
        yield from (file for file in folder.iterdir() if file.is_file())


def _still_named(parts: Parts, subject: Subject) -> Iterator[str]:
    """Files of the state folder in which the key still stands as text; a key of a few letters is too often chance."""
    if isinstance(subject.value, int) or len(subject.value) < 4:
        return
    state = parts.settings.state
    for file in sorted(path for path in state.rglob("*") if path.is_file()):
        if "models" in file.relative_to(state).parts[:1]:
            continue
        if _holds(file, subject):
            yield f"{file.relative_to(state)} still names the key: look at it, and delete it if nobody needs it"


def _holds(file: Path, subject: Subject) -> bool:
    size, overlap = 1 << 24, 1 << 12
    with file.open("rb") as data:
        before = b""
        if file.suffix == ".parquet":
            # Packed values may be cut anywhere, and were gone through one by one; least and greatest ones stand here.
            data.seek(-8, os.SEEK_END)
            data.seek(-8 - int.from_bytes(data.read(4), "little"), os.SEEK_END)
        while piece := data.read(size):
            if subject.stands_in(before + piece):
                return True
            before = piece[-overlap:]
    return False


def _model_versions(parts: Parts) -> bool:
    return any(parts.registry.list(name) for name in parts.plan.models)


def _digest(parts: Parts, entity: str, key: Any) -> str:
    secret = parts.catalog.setting(_SECRET)
    if secret is None:
        secret = secrets.token_hex(32)
        parts.catalog.set_setting(_SECRET, secret)
    return hmac.new(bytes.fromhex(secret), f"{entity}\0{key}".encode(), hashlib.sha256).hexdigest()


def _jobs(parts: Parts) -> dict[str, list[dict[str, Any]]]:
    return dict(parts.catalog.setting(ERASURES, {}))


def _job(parts: Parts, digest: str) -> _Job | None:
    """The one that was cut short; None if none was."""
    found = [msgspec.convert(job, _Job) for job in _jobs(parts).get(digest, [])]
    return next((job for job in found if not job.receipt.ended), None)
