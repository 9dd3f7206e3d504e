"""What the conformance kits run in processes of their own: they are started afresh, and some are killed.

Each function takes an *opener*, a picklable callable without arguments that opens the adapter under test.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pyarrow as pa

from headrace.catalog.catalog import Catalog
from headrace.catalog.records import DefinitionRecord
from headrace.core.errors import PlanError
from headrace.eventlog.base import Append, EventLog
from headrace.registry.base import DataSnapshot, ModelRegistry, NewVersion
from headrace.stores.offline.base import OfflineStore
from headrace.stores.online.base import OnlineStore

# Processes forked of a server that has imported everything once start in no time. What is imported is what
# `multiprocessing.set_forkserver_preload` names, else just what a process needs, each time.
_METHODS: Any = [name for name in ("forkserver", "spawn") if name in multiprocessing.get_all_start_methods()]
_START = multiprocessing.get_context(_METHODS[0])
RECORDS = 20
"""Records that `write_generations` writes at once."""
ROWS = 10
"""Rows that `append_tables` appends at once."""


@contextmanager
def started(work: Callable[..., None], *arguments: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process that runs `work(*arguments, pipe)`, and the other end of its pipe; killed at the end if still alive."""
    here, there = _START.Pipe(duplex=False)
    process = _START.Process(target=work, args=(*arguments, there), daemon=True)
    process.start()
    there.close()
    try:
        yield process, here
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        here.close()


def killed_after(work: Callable[..., None], *arguments: Any, reports: int) -> int:
    """Run `work`, which reports rising numbers, kill -9 it after `reports` of them; returns the last one reported."""
    with started(work, *arguments) as (process, pipe):
        last = -1
        for _ in range(reports):
            last = int.from_bytes(pipe.recv_bytes(), "big")
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        try:
            while True:
                last = int.from_bytes(pipe.recv_bytes(), "big")
        except EOFError:
            return last


def finished(process: BaseProcess) -> None:
    """Wait for a process and fail unless it ended well."""
    process.join(60)
    assert process.exitcode == 0, f"the process ended with {process.exitcode}"


def barrier(parties: int) -> Any:
    """A barrier for processes of `started`."""
    return _START.Barrier(parties)


def append_numbered(open_log: Callable[[], EventLog], topic: str, writer: int, batches: int, pipe: Connection) -> None:
    """Append `batches` batches of 1 to 3 records, whose payloads say writer and number."""
    log = open_log()
    for number in range(batches):
        log.append([Append(topic, 0, b"%d:%d" % (writer, number), 1 + number % 3)])
    log.close()
    pipe.close()


def append_pairs(open_log: Callable[[], EventLog], first: str, second: str, pipe: Connection) -> None:
    """Append to two topics at once for ever, going on where the last process stopped; reports each number after it."""
    log = open_log()
    newest = log.last(second, 0)
    start = 0 if newest is None else int.from_bytes(newest.payload[:8], "big") + 1
    for number in count(start):
        payload = number.to_bytes(8, "big") * (1 + number % 700)
        log.append([Append(first, 0, payload, 3), Append(second, 0, payload)])
        pipe.send_bytes(number.to_bytes(8, "big"))


def create_and_append(open_log: Callable[[], EventLog], topic: str, payload: bytes, pipe: Connection) -> None:
    """Create a topic of two partitions, append one record to its second one and report."""
    log = open_log()
    log.create(topic, 2)
    log.append([Append(topic, 1, payload)])
    pipe.send_bytes(b"\0")
    log.close()


def write_generations(open_store: Callable[[], OnlineStore], pipe: Connection) -> None:
    """For ever write all records and the position with one number, going on from the last; reports it after each."""
    store = open_store()
    start = int.from_bytes(store.position(), "big") + 1
    for number in count(start):
        text = number.to_bytes(8, "big")
        store.write([(b"%d" % key, text * (1 + (number * key) % 90)) for key in range(RECORDS)], text)
        pipe.send_bytes(text)


def append_tables(
    open_store: Callable[[], OfflineStore], table: str, writer: str, limit: int, pipe: Connection
) -> None:
    """Append numbered batches up to `limit`, going on after the writer's last number; reports each after it."""
    store = open_store()
    for number in range(store.number(table, writer) + 1, limit):
        rows = pa.table({"at": pa.array([number] * ROWS, pa.int64()), "writer": [writer] * ROWS})
        store.append(table, rows, time_column="at", writer=writer, number=number)
        pipe.send_bytes(number.to_bytes(8, "big"))
    store.close()


def add_versions(open_catalog: Callable[[], Catalog], model: str, count: int, pipe: Connection) -> None:
    """Add versions of a model, whose records are their numbers."""
    catalog = open_catalog()
    for _ in range(count):
        catalog.models.add_version(model, lambda number, at: str(number))
    catalog.close()


def move_alias(open_catalog: Callable[[], Catalog], model: str, alias: str, pipe: Connection) -> None:
    """For ever point an alias at versions 1 and 2 in turn; reports the id of each move."""
    catalog = open_catalog()
    for turn in count():
        moved = catalog.models.set_alias(model, alias, 1 + turn % 2, "mover", "in turn")
        pipe.send_bytes(moved.id.to_bytes(8, "big"))


def apply_in_turns(open_catalog: Callable[[], Catalog], who: str, rounds: int, ready: Any, pipe: Connection) -> None:
    """In each round decide upon the newest generation, wait for the others, apply; reports 1 if it won, 0 if not.

    `ready` is a barrier of all who take part.
    """
    catalog = open_catalog()
    for number in range(rounds):
        ready.wait(60)
        generation = catalog.generation()
        ready.wait(60)
        records = [DefinitionRecord("group", name, f"{who}{number}") for name in ("Spend", "Visits")]
        try:
            catalog.apply(records, generation=generation)
        except PlanError:
            pipe.send_bytes(b"\0")
        else:
            pipe.send_bytes(b"\1")
    catalog.close()


def die_in_a_transaction(open_catalog: Callable[[], Catalog], model: str, pipe: Connection) -> None:
    """Begin to add a version, report, and wait to be killed."""

    def wait(number: int, created_us: int) -> str:
        pipe.send_bytes(number.to_bytes(8, "big"))
        time.sleep(600)
        return ""

    open_catalog().models.add_version(model, wait)


def version_of(model: str) -> NewVersion:
    """A version to register."""
    return NewVersion(
        model=model,
        view="flight",
        view_version="v1",
        columns=("a", "b"),
        metrics={"average_precision": 0.31},
        snapshot=DataSnapshot(
            rows=100,
            positives=20,
            since_us=0,
            until_us=50,
            as_of={"Flights": [7, 9]},
            tables={"Flights": 3},
            dataset_hash="ab",
        ),
        feature_versions={"a": "1f", "b": "2e"},
        estimator="LGBMClassifier()",
    )


def register_versions(open_registry: Callable[[], ModelRegistry], model: str, count: int, pipe: Connection) -> None:
    """Register versions of a model, each with a small file and one made of it; reports the number of each after it."""
    registry = open_registry()
    for turn in range(count):
        small = turn.to_bytes(8, "big")
        made = registry.register(version_of(model), {"m": small, "large": small * 50_000})
        pipe.send_bytes(made.number.to_bytes(8, "big"))
    registry.close()
