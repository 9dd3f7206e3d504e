"""What is damaged behind the store's back is found and put right, byte for byte, and nothing sound is touched."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.core.positions import decode_position
from headrace.ingestion.expected import Expected, Share
from headrace.ingestion.materialize import OnlineIngest
from headrace.ingestion.reconcile import Reconciler, rebuild
from headrace.retrieval.past import Past
from headrace.stores.online.base import OnlineStore
from headrace.stores.online.lmdb import LmdbOnlineStore
from headrace.stores.online.memory import MemoryOnlineStore
from tests.recovery.shop import HORIZON_US, PROJECT, Shop, deeds

SEED, DEEDS, SHARES = 20260301, 90, 3


class Lived:
    """A shop of which some is archived, some in the log alone, and some not ingested yet."""

    def __init__(self, folder: Path) -> None:
        self.shop = Shop(folder)
        self.deeds = list(deeds(SEED, DEEDS))
        self.compute = self.shop.compute()
        self.online = self.shop.online()
        self.offline = self.shop.offline()
        self.archive = self.shop.archive()
        self.ingest = OnlineIngest(PROJECT, self.shop.features, self.online, horizon_us=HORIZON_US)
        self.go_on(30)
        while self.archive.step(5):
            pass
        self.go_on(30)
        self.ingest_all()
        self.before = dict(self.online.scan())

    def go_on(self, count: int) -> None:
        for deed in self.deeds[:count]:
            deed(self.shop)
        del self.deeds[:count]
        while self.compute.step(20):
            pass

    def ingest_all(self) -> None:
        while self.ingest.step():
            pass

    def expected(self) -> Expected:
        shop = self.shop
        past = Past(PROJECT, shop.raw, shop.features, self.offline)
        return Expected(PROJECT, shop.raw, shop.features, self.offline, past, MemoryOnlineStore, horizon_us=HORIZON_US)

    def reconciler(self, online: OnlineStore | None = None) -> Reconciler:
        return Reconciler(PROJECT, self.shop.features, online or self.online, self.expected())

    def damage(self, changes: dict[bytes, bytes | None]) -> None:
        self.online.write(list(changes.items()), self.online.position())

    def close(self) -> None:
        self.online.close()
        self.offline.close()
        self.shop.close()


@pytest.fixture
def lived(tmp_path: Path) -> Iterator[Lived]:
    made = Lived(tmp_path)
    yield made
    made.close()


def look(reconciler: Reconciler, *, repair: bool = True) -> None:
    for number in range(SHARES):
        reconciler.run(Share(number, SHARES), repair=repair)


def test_what_is_sound_is_compared_and_left_alone(lived: Lived) -> None:
    reconciler = lived.reconciler()
    look(reconciler)
    assert reconciler.totals.compared == len(lived.before) > 5
    assert (reconciler.totals.wrong, reconciler.totals.repaired, reconciler.totals.left) == (0, 0, 0)
    assert dict(lived.online.scan()) == lived.before


def test_flipped_bits_lost_and_stale_records_are_put_right(lived: Lived) -> None:
    rng = random.Random(SEED)
    stale = dict(lived.before)
    lived.go_on(20)
    lived.ingest_all()
    sound = dict(lived.online.scan())
    old = {key: stale[key] for key in sorted(stale) if stale[key] != sound[key]}
    changes: dict[bytes, bytes | None] = {}
    for number, key in enumerate(rng.sample(sorted(sound), 6)):
        record = bytearray(sound[key])
        bit = rng.randrange(8 * len(record))
        record[bit // 8] ^= 1 << bit % 8
        changes[key] = (None, bytes(record), old.get(key, bytes(record)))[number % 3]
    some_old = [key for key in old if key not in changes][:3]
    changes |= {key: old[key] for key in some_old}
    lived.damage(changes)

    only_told = lived.reconciler()
    look(only_told, repair=False)
    assert only_told.totals.wrong == len(changes)
    assert sum(only_told.totals.missing.values()) == sum(record is None for record in changes.values())
    assert dict(lived.online.scan()) != sound

    reconciler = lived.reconciler()
    look(reconciler)
    assert (reconciler.totals.wrong, reconciler.totals.repaired) == (len(changes), len(changes))
    assert dict(lived.online.scan()) == sound
    again = lived.reconciler()
    look(again)
    assert again.totals.wrong == 0


class Busy(MemoryOnlineStore):
    """A store that ingestion writes to between the moments when a reconciler looks at it."""

    meanwhile: list[OnlineIngest]

    def read(self, keys: object) -> tuple[list[bytes | None], bytes]:
        if keys and self.meanwhile:
            worker = self.meanwhile.pop()
            while worker.step():
                pass
        return super().read(keys)  # type: ignore[arg-type]


def test_what_is_ingested_meanwhile_is_neither_taken_for_damage_nor_undone(lived: Lived) -> None:
    store = Busy()
    store.meanwhile = []
    ingest = OnlineIngest(PROJECT, lived.shop.features, store, horizon_us=HORIZON_US)
    while ingest.step():
        pass
    lived.go_on(20)
    lived.ingest_all()
    sound = dict(lived.online.scan())
    damaged = sorted(dict(store.scan()))[::2]
    store.write([(key, None) for key in damaged[::2]], store.position())
    flipped = [(key, record[:-1] + bytes([record[-1] ^ 1])) for key, record in store.scan() if key in damaged[1::2]]
    store.write(flipped, store.position())
    reconciler = lived.reconciler(store)
    store.meanwhile = [OnlineIngest(PROJECT, lived.shop.features, store, horizon_us=HORIZON_US)]
    look(reconciler)
    assert decode_position(store.position()) == decode_position(lived.online.position())
    assert reconciler.totals.repaired == reconciler.totals.wrong > 0
    look(reconciler)
    assert dict(store.scan()) == sound


def test_a_store_made_anew_is_the_lost_one_and_goes_on(lived: Lived, tmp_path: Path) -> None:
    lived.before = dict(lived.online.scan())
    fresh = LmdbOnlineStore(tmp_path / "fresh")
    position = rebuild(PROJECT, lived.shop.features, fresh, lived.expected())
    assert position == decode_position(lived.online.position()) == decode_position(fresh.position())
    states = {key: record for key, record in fresh.scan() if key.startswith(b"\xff\xff")}
    assert {key: r for key, r in fresh.scan() if key not in states} == lived.before
    lived.go_on(30)
    lived.ingest_all()
    ingest = OnlineIngest(PROJECT, lived.shop.features, fresh, horizon_us=HORIZON_US)
    while ingest.step():
        pass
    assert {key: r for key, r in fresh.scan() if key not in states} == dict(lived.online.scan())
    fresh.close()
