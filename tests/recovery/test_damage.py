"""Bytes that cannot be read, files cut short, a full disk: each is told, nothing is lost, and the cure cures."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.catalog.catalog import Catalog
from headrace.core.errors import HeadraceError, LogError, StoreError
from headrace.core.time import SimulatedClock
from headrace.engines.stream.commits import TABLES, WINDOWS
from headrace.eventlog.base import Append
from headrace.ingestion.materialize import OnlineIngest
from headrace.retrieval.past import WRITER, events_table
from headrace.stores.online.memory import MemoryOnlineStore
from tests.recovery.shop import HORIZON_US, PROJECT, Shop, deeds

_SERVER = multiprocessing.get_context("forkserver")
TABLE = events_table("order")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop with some events in the logs, computed in many steps."""
    found = Shop(tmp_path)
    for deed in deeds(20130301, 20):
        deed(found)
    compute = found.compute()
    while compute.step(4):
        pass
    return found


def ingest_of(shop: Shop) -> OnlineIngest:
    return OnlineIngest(PROJECT, shop.features, MemoryOnlineStore(), horizon_us=HORIZON_US)


@pytest.mark.parametrize("payload", [b"", b"\xc1garbage", b"\x02\x00\x00\x00", bytes(range(200)), b"\xff" * 5_000])
@pytest.mark.parametrize("topic", [WINDOWS, TABLES])
def test_what_cannot_be_read_is_named_and_not_skipped(shop: Shop, topic: str, payload: bytes) -> None:
    [base] = shop.features.append([Append(topic, 0, payload, 3)])
    works: list[Callable[[], object]] = [lambda: drain(ingest_of(shop).step), lambda: drain(shop.archive().step)]
    before = {name: shop.features.end(name, 0) for name in (WINDOWS, TABLES)}
    for work in works:
        for _ in range(2):  # whoever starts again is told the same
            with pytest.raises(
                LogError, match=rf"topic {topic}, partition 0, offset {base}: .*restore the log"
            ) as told:
                work()
            assert len(str(told.value)) < 500
    assert {name: shop.features.end(name, 0) for name in (WINDOWS, TABLES)} == before
    shop.close()


def drain(step: Callable[[], int]) -> None:
    while step():
        pass


def archived(shop: Shop, steps: int = 1_000) -> list[int]:
    """Archive so many pieces; the offsets that are in the archive then."""
    archive = shop.archive()
    for _ in range(steps):
        if not archive.step(4):
            break
    return sorted(shop.offline().scan(TABLE)["_offset"].to_pylist())


def test_a_data_file_that_is_cut_short_or_gone_is_told_and_comes_back(shop: Shop) -> None:
    wanted = archived(shop)
    file = min((shop.folder / "offline" / TABLE).rglob("*.parquet"))
    whole = file.read_bytes()
    for data in (whole[:-40], whole[: len(whole) // 2], b"", None):
        file.unlink()
        if data is not None:
            file.write_bytes(data)
        for read in (lambda: shop.offline().scan(TABLE), lambda: list(shop.offline().batches(TABLE))):
            with pytest.raises(StoreError, match=f'"{TABLE}".*damaged or gone.*restore it from a backup'):
                read()
        file.write_bytes(whole)
        assert archived(shop) == wanted
    shop.close()


@pytest.mark.parametrize("kept", [-40, -1, 300, 0])
def test_a_commit_that_is_cut_short_loses_and_doubles_nothing(shop: Shop, kept: int) -> None:
    archived(shop, 2)
    newest = max((shop.folder / "offline" / TABLE / "_delta_log").glob("*.json"))
    newest.write_bytes(newest.read_bytes().strip()[:kept])
    if kept:
        with pytest.raises(StoreError, match=r"cut short: remove .*\.json|damaged or gone"):
            shop.archive()
        newest.unlink()
    held = archived(shop)
    shutil.rmtree(shop.folder / "offline")
    assert held == archived(shop)
    shop.close()


def fill_up(folder: Path, pipe: Connection) -> None:
    """Write to each part until no file may grow any more, and again when it may; tells errors and what is there."""
    shop = Shop(folder)
    online, offline, catalog = shop.online(), shop.offline(), Catalog(folder / "catalog.db", SimulatedClock(0))
    rows = pa.table({"at": pa.array([0] * 100, pa.int64()), "x": [os.urandom(3_000) for _ in range(100)]})
    online.write([(b"key", b"before")], b"0")
    offline.append("t", rows, time_column="at", writer=WRITER, number=0)
    compute = shop.compute()
    compute.checkpoint()
    numbers = iter(range(1, 1_000))

    def write_online() -> None:
        number = next(numbers)
        online.write([(b"key%d" % number, os.urandom(30_000))], b"%d" % number)

    writes: dict[str, Callable[[], object]] = {
        "log": lambda: shop.raw.append([Append("order", 0, os.urandom(30_000), 1)] * 3),
        "online store": write_online,
        "offline store": lambda: offline.append("t", rows, time_column="at", writer=WRITER, number=1),
        "catalog": lambda: catalog.set_setting(f"key {next(numbers)}", "x" * 30_000),
        "checkpoint": compute.checkpoint,
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    told: dict[str, str] = {}
    for part, write in writes.items():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10 if part == "checkpoint" else 40_000, hard))
        try:
            for _ in range(30):
                write()
        except HeadraceError as error:
            told[part] = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    stood = int(online.position())
    found = {
        "log": shop.raw.end("order", 0) % 3,
        "online store": {key for key, _ in online.scan()} == {b"key", *(b"key%d" % n for n in range(1, stood + 1))},
        "offline store": (offline.number("t", WRITER), offline.scan("t").num_rows),
        "catalog": catalog.setting("key 999"),
        "checkpoint": shop.compute().positions == compute.positions,
    }
    for write in writes.values():
        write()
    after = (offline.number("t", WRITER), offline.scan("t").num_rows)
    pipe.send((told, found, after))


def test_a_full_disk_is_told_and_nothing_is_half_stored(tmp_path: Path) -> None:
    """A limit on the size of files stands for it: it, too, refuses a write in its midst."""
    pipe, there = _SERVER.Pipe(duplex=False)
    process = _SERVER.Process(target=fill_up, args=(tmp_path, there), daemon=True)
    process.start()
    there.close()
    assert pipe.poll(60)
    told, found, after = pipe.recv()
    process.join(20)
    assert told.keys() == {"log", "online store", "offline store", "catalog", "checkpoint"}
    for part, text in told.items():
        assert "free some space" in text, part
        assert str(tmp_path) in text or part == "catalog", part
    assert found["log"] == 0, "an append of three batches is there in part"
    assert found["online store"], "a write is there in part"
    assert found["offline store"] == (0, 100)
    assert found["checkpoint"]
    assert after == (1, 200)
