"""What could keep a project from working, and what to do about it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from headrace.app.clock import SystemClock
from headrace.app.heartbeats import EVERY_LAYER
from headrace.app.locks import holder_of
from headrace.app.private import others_can_read, private_folder
from headrace.app.settings import Settings, load_settings
from headrace.app.shared_layers import share_count
from headrace.app.sharing import INGEST_SHARES, ROSTERS, extra_workers, worker_status, workers_of
from headrace.app.wiring import Parts
from headrace.core.addresses import shown
from headrace.core.errors import ConfigError, HeadraceError, Unreachable
from headrace.core.time import US_PER_SECOND, to_iso
from headrace.features.plan import ProjectPlan

if TYPE_CHECKING:
    from headrace.core.time import Clock

_LEAST_FREE = 2 << 30
_ADDRESSED = {
    "event log": "log",
    "feature log": "log",
    "internal log": "log",
    "online store": "online",
    "offline store": "offline",
    "catalog": "catalog",
    "model registry": "models",
}
"""Which setting says where a part is."""
_BESIDE = {"offline": " and in [s3], or in AWS_* variables"}
_SOON_US = 7 * 86_400_000_000
_BUILT_US = 1_735_689_600_000_000
"""2025-01-01: a clock before it is wrong."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: what was found, and what to do if it is not well."""

    what: str
    ok: bool
    found: str
    cure: str = ""


def examine(folder: str | Path | None = None, env: str | None = None, clock: Clock | None = None) -> list[Finding]:
    """Look at everything; never raises for what it finds."""
    clock = clock or SystemClock()
    try:
        settings = load_settings(folder, env=env)
    except HeadraceError as error:
        return [Finding("settings", False, str(error), "mend headrace.toml or the variable")]
    findings = [Finding("settings", True, f"{settings.folder}, environment {settings.env}")]
    findings += [_writable(settings), _space(settings), _clock(clock)]
    plan, found = _definitions(settings)
    findings.append(found)
    if findings[1].ok:
        findings += _parts(settings, plan, clock)
    findings += [_compiled(), *_locks(settings)]
    return findings


def _writable(settings: Settings) -> Finding:
    state = settings.state
    try:
        private_folder(state)
        with tempfile.NamedTemporaryFile(dir=state):
            pass
    except OSError as error:
        return Finding(
            "state folder", False, f"{state}: {error.strerror}", "give this user write access, or set state = elsewhere"
        )
    told = ", and every user of this machine can read it: chmod o-rwx" if others_can_read(state) else ""
    return Finding("state folder", True, f"{state} is writable{told}")


def _space(settings: Settings) -> Finding:
    free = shutil.disk_usage(_existing(settings.state)).free
    ok = free >= _LEAST_FREE
    return Finding("disk space", ok, f"{free / 2**30:.1f} GiB free", "" if ok else "free at least 2 GiB")


def _existing(path: Path) -> Path:
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def _clock(clock: Clock) -> Finding:
    now = clock.now_us()
    ok = now > _BUILT_US
    return Finding("clock", ok, to_iso(now), "" if ok else "set the machine's clock; events would be in its future")


def _definitions(settings: Settings) -> tuple[ProjectPlan, Finding]:
    from headrace.app.scheduled import declared_schedule
    from headrace.features.discover import load_project

    try:
        plan = load_project(settings.folder)
        declared_schedule(plan, settings.groups)
    except HeadraceError as error:
        first = str(error).splitlines()[0]
        return ProjectPlan({}, {}, {}, {}, {}), Finding("definitions", False, first, "run headrace check for all of it")
    columns = sum(len(view.visible) for view in plan.views.values())
    return plan, Finding("definitions", True, f"{len(plan.groups)} groups, {columns} columns in views")


def _parts(settings: Settings, plan: ProjectPlan, clock: Clock) -> Iterator[Finding]:
    parts = Parts(settings, plan, clock)
    looks: list[tuple[str, Callable[[], str]]] = [
        ("event log", lambda: f"{len(parts.raw.topics())} topics"),
        ("feature log", lambda: f"{len(parts.features.topics())} topics"),
        ("internal log", lambda: f"{len(parts.internal.topics())} topics"),
        ("online store", lambda: f"{parts.online.count():,} records{parts.online.about()}"),
        ("offline store", lambda: f"{len(parts.offline.tables())} tables"),
        ("catalog", lambda: f"{len(parts.catalog.definitions())} definitions applied"),
        ("model registry", lambda: f"{len(parts.registry.models())} models"),
    ]
    away: set[str] = set()
    try:
        for what, look in looks:
            part = _ADDRESSED.get(what, "")
            if part in away:  # it has been waited for once
                continue
            address = getattr(settings, part, "embedded")
            where = "" if address == "embedded" else f" at {shown(address)}"
            try:
                yield Finding(what, True, look() + where)
                if what == "internal log":
                    for found, cure in parts.log_problems():
                        yield Finding(what, False, found, cure)
                if what == "online store":
                    for found, cure in parts.online.problems():
                        yield Finding(what, False, found, cure)
            except (HeadraceError, OSError) as error:
                if isinstance(error, Unreachable):
                    away.add(part)
                yield Finding(what, False, str(error), _cure_of(error, part, elsewhere=bool(where)))
        yield _access(parts)
        yield from _unreadable(parts)
        yield from _workers(parts)
        yield from _sources(parts)
        yield from _copied(parts)
    finally:
        parts.close()


def _access(parts: Parts) -> Finding:
    """Who may use the HTTP API from where."""
    from headrace.app.access import check_address, is_loopback

    settings, now = parts.settings, parts.clock.now_us()
    try:
        check_address(parts)
        keys = parts.catalog.keys.list()
    except HeadraceError as error:
        return Finding("access", False, str(error), "see docs/access.md")
    live = [key for key in keys if key.state(now) == "live"]
    if keys and not live:
        return Finding(
            "access", False, "no key is live: nobody is let in", "make one: headrace keys make NAME --scope ..."
        )
    soon = [key.name for key in live if key.expires_us is not None and key.expires_us - now < _SOON_US]
    if soon:
        return Finding("access", False, f"key {soon[0]} expires within a week", "make another, then revoke this one")
    who = f"{len(live)} live keys" if keys else "open to this machine alone"
    tls = (
        "TLS" if settings.tls_cert else "no TLS" if is_loopback(settings.host) else "no TLS: keys travel in clear text"
    )
    return Finding("access", True, f"{settings.host}, {who}, {tls}")


def _unreadable(parts: Parts) -> Iterator[Finding]:
    """Batches of events that could not be read and that nobody has dealt with yet."""
    from headrace.app.letters import Chosen, letters_of
    from headrace.core.unreadable import CANNOT_BE_READ

    try:
        found = letters_of(parts).find(Chosen(reason=CANNOT_BE_READ), limit=1)
    except HeadraceError:
        return  # told of the logs already
    for letter in found.letters:
        n = found.total
        told = f"{letter.id}: {letter.reason}" if n == 1 else f"{n:,} batches of events, the newest {letter.id}"
        cure = "restore them in the log and run headrace dead replay, or drop them: docs/dead-letters.md"
        yield Finding("events", False, told, cure)


def _workers(parts: Parts) -> Iterator[Finding]:
    """Of layers that have several workers: whether each has something to do, and lives."""
    settings = parts.settings
    layers = [layer for layer in ROSTERS if workers_of(settings, layer) > 1]
    try:
        workers = worker_status(parts) if layers else []
        shares = {"compute": share_count(parts) if layers else 0, "ingest": len(INGEST_SHARES)}
    except HeadraceError:
        return  # told of the catalog and the log already
    for layer in layers:
        what, here = f"workers of {layer}", [worker for worker in workers if worker.layer == layer]
        late = [worker for worker in here if worker.seen_us > 2 * settings.lease_s * US_PER_SECOND]
        if late:
            yield Finding(what, False, str(late[0]), "it is dead; start another, which takes what it had")
        elif layer == "compute" and shares[layer] < workers_of(settings, layer):
            found = f"{workers_of(settings, layer)} workers, but no stream has more than {shares[layer]} partitions"
            cure = "some only stand by: lower compute_workers, or give new streams more partitions"
            yield Finding(what, False, found, cure)
        else:
            yield Finding(what, True, "; ".join(map(str, here)) or "none runs")


def _sources(parts: Parts) -> Iterator[Finding]:
    from headrace.app.schedules import sources_of

    names = list(parts.settings.sources)
    try:
        engine = parts.batch_engine(sources_of(parts)) if names else None
    except ConfigError as error:
        yield Finding("sources", False, str(error), "mend headrace.toml or the variable")
        return
    for name in names:
        assert engine is not None
        try:
            yield Finding(f"source {name}", True, engine.look(name))
        except (HeadraceError, OSError) as error:
            cure = f"check {name} under [sources] in headrace.toml, and that it is there"
            yield Finding(f"source {name}", False, str(error), cure)


def _copied(parts: Parts) -> Iterator[Finding]:
    """The streams that come from other systems."""
    for stream, source in parts.settings.copied.items():
        what = f"stream {stream}"
        try:
            copier = parts.copier(stream)
            yield Finding(what, True, f"{len(copier.source.shards())} shards of {source.name}")
        except Unreachable as error:
            yield Finding(
                what, False, str(error), f"check address and network; streams.{stream} in headrace.toml names it"
            )
        except HeadraceError as error:
            yield Finding(
                what, False, str(error), f"check streams.{stream} in headrace.toml, and the rights of its user"
            )


def _cure_of(error: Exception, part: str, *, elsewhere: bool) -> str:
    if isinstance(error, Unreachable):
        return f'start it, or check its address in {part} = "..."; the layers wait for it and lose nothing'
    if isinstance(error, ConfigError):
        return "mend headrace.toml or the variable"
    if elsewhere:
        return f'check address, user and rights in {part} = "..."{_BESIDE.get(part, "")}'
    return "restore it from a backup, or move it away to start anew"


def _compiled() -> Finding:
    """Kernels are compiled at the first use; where the cache cannot be written, each process compiles them again."""
    from headrace.aggregations import kernel

    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(kernel.__file__).parent / "__pycache__")
    ok = os.access(_existing(folder), os.W_OK)
    cure = "" if ok else "set NUMBA_CACHE_DIR to a folder that can be written, or each start takes seconds longer"
    return Finding("compiled kernels", ok, f"cache in {folder}", cure)


def _locks(settings: Settings) -> list[Finding]:
    if not settings.state.is_dir():
        return []
    held = {role: holder_of(settings.state, role) for role in ("up", *EVERY_LAYER, *extra_workers(settings.state))}
    return [Finding(f"layer {role}", True, f"run by {holder}") for role, holder in held.items() if holder is not None]
