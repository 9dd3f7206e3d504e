"""Erasures that callers ask the service for: done by a process beside it, as the command does them.

The service holds stores open that an erasure edits, and a supervisor stops the service when the layers may go on. So
the work is in a process of its own (`app.erasing_process`), which goes on to its end whatever becomes of the service;
what is known of it lies in the catalog. The key goes there through a pipe, and stands in no list of processes.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headrace.app.erasing import ErasureReceipt, receipts
from headrace.app.locks import holder_of
from headrace.core import errors
from headrace.core.errors import Busy, HeadraceError, SchemaError, StoreError

if TYPE_CHECKING:
    from headrace.app.wiring import Parts

_logger = logging.getLogger("headrace.app")
MODULE: Final = "headrace.app.erasing_process"
RUNS: Final = "an erasure runs already; ask again when it has ended (GET /v1/erasures)"


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """What the process is to do, for the project in `folder`."""

    folder: str
    env: str
    state: str
    entity: str
    key: str | int
    events: str
    who: str
    dry_run: bool = False


class Word(msgspec.Struct, omit_defaults=True):
    """A line of what the process says: a receipt, or the error that ended it, of class `kind` in `core.errors`."""

    receipt: ErasureReceipt | None = None
    error: str = ""
    kind: str = ""
    field: str | None = None


class Erasures:
    """The door of erasures, for one service. Thread-safe."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._at_work = threading.Lock()
        self._running: str | None = None

    def start(self, entity: str, key: str | int, *, events: str, who: str) -> ErasureReceipt:
        """Begin to erase, or go on with what was cut short; returns the receipt as it is when the layers rest.

        Raises SchemaError if there is no such entity or no such key can be, Busy if no supervisor runs that can bring
        the layers to rest, if they do not come to rest, or if an erasure runs already.
        """
        order = self._order(entity, key, events, who, dry_run=False)
        if holder_of(self._parts.settings.state, "up") is None:
            raise Busy(
                "the layers rest while an entity is erased, and only headrace up can ask that of them: this service "
                "was started by itself"
            )
        if not self._at_work.acquire(blocking=False):
            raise Busy(RUNS)
        try:
            process = self._begin(order)
            receipt = _heard(process)
        except BaseException:
            self._at_work.release()
            raise
        self._running = receipt.id
        threading.Thread(target=self._await, args=(process,), name="headrace-erasure", daemon=True).start()
        return receipt

    def look(self, entity: str, key: str | int, *, events: str) -> ErasureReceipt:
        """What an erasure would find; nothing rests and nothing changes. Raises as `start` does."""
        order = self._order(entity, key, events, "", dry_run=True)
        if not self._at_work.acquire(blocking=False):
            raise Busy(RUNS)
        try:
            process = self._begin(order)
            receipt = _heard(process)
            _gone(process)
            return receipt
        finally:
            self._at_work.release()

    def list(self) -> list[ErasureReceipt]:
        """Receipts of all erasures, by whomever, the newest last."""
        return receipts(self._parts)

    def running(self) -> str | None:
        """The id of the erasure that was started here and has not ended."""
        return self._running

    def _order(self, entity: str, key: str | int, events: str, who: str, *, dry_run: bool) -> Order:
        from headrace.erasure.subject import subject_of

        if events not in ("unlink", "drop"):
            raise SchemaError('give "unlink" or "drop"', field="events")
        subject_of(self._parts.plan, entity, key, bytes(32))
        settings = self._parts.settings
        return Order(str(settings.folder), settings.env, str(settings.state), entity, key, events, who, dry_run)

    def _begin(self, order: Order) -> subprocess.Popen[bytes]:
        # A session of its own: a signal for the service, or for its terminal, is not for this.
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        with process.stdin as told:
            told.write(msgspec.json.encode(order))
        return process

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        try:
            _heard(process)
        except HeadraceError as error:
            _logger.error("erasure %s did not end: %s; whoever asks for it again goes on with it", self._running, error)
        finally:
            _gone(process)
            self._running = None
            self._at_work.release()


def _heard(process: subprocess.Popen[bytes]) -> ErasureReceipt:
    """The next receipt that the process tells; raises the error that it tells instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    word = msgspec.json.decode(line, type=Word) if line else Word(error="its process was ended", kind="StoreError")
    if word.receipt is not None:
        return word.receipt
    _gone(process)
    kind: Any = getattr(errors, word.kind, StoreError)
    raise SchemaError(word.error, field=word.field) if kind is SchemaError else kind(word.error)


def _gone(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.stdout.close()
    process.wait()
