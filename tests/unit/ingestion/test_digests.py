"""Trees of hashes over a store's records, held against plain dictionaries."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from headrace.core.positions import EMPTY_POSITION, Position
from headrace.ingestion.digests import DigestFolder, Digests, Kept, digest, hashes_of, holds

VERSION, OTHER = "0011223344556677", "8899aabbccddeeff"


def of(records: dict[bytes, bytes]) -> Digests:
    return digest(records.items(), [VERSION], lambda keys: np.zeros(len(keys), np.bool_))[0]


def world(seed: int, n: int) -> dict[bytes, bytes]:
    rng = random.Random(seed)
    return {b"i%d" % rng.randrange(10**9) + bytes.fromhex(VERSION): rng.randbytes(rng.randrange(40)) for _ in range(n)}


@pytest.mark.parametrize("n", [0, 1, 300, 20_000])
@pytest.mark.parametrize("changes", [0, 1, 7, 5_000])
def test_what_changed_is_what_two_dictionaries_differ_in(n: int, changes: int) -> None:
    before, rng = world(1, n), random.Random(2)
    after = dict(before)
    for number, key in enumerate(rng.sample(sorted(before), min(changes, len(before)))):
        if number % 3 == 0:
            del after[key]
        else:
            after[key] = before[key] + b"!"
    after |= dict(list(world(3, changes).items())[: changes // 2])
    differ = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    found = of(before).changed(of(after))
    assert found.tolist() == sorted(hashes_of(differ).tolist())
    assert of(after).changed(of(before)).tolist() == found.tolist()


def test_below_nodes_that_agree_nothing_is_looked_at() -> None:
    before = world(1, 20_000)
    key = sorted(before)[77]
    one, other = of(before), of({**before, key: b"other"})
    (leaf,) = one.differing(other)
    assert leaf == int(hashes_of([key])[0]) >> 52
    assert [len(level) for level in one.levels] == [1, 16, 256, 4096]
    for level in one.levels[:-1]:
        level[...] = 0
    for level in other.levels[:-1]:
        level[...] = 0
    assert not len(one.differing(other)), "the root says so"


def test_the_order_of_the_records_makes_no_difference_and_what_comes_twice_counts_once() -> None:
    records = world(1, 2_000)
    turned = list(records.items())[::-1] + list(records.items())[:50]
    other, _ = digest(turned, [VERSION], lambda keys: np.zeros(len(keys), np.bool_))
    assert not len(of(records).changed(other))


def test_only_the_named_versions_are_hashed_and_chosen_keys_are_told() -> None:
    records = world(1, 100)
    beside = {b"j" + key[:-8] + bytes.fromhex(OTHER): b"x" for key in records}
    strange = {b"\xff\xffstate" + VERSION.encode(): b"state", b"k" * 8: b"of no version that is known"}
    found, chosen = digest(
        {**records, **beside, **strange}.items(), [VERSION], lambda keys: np.ones(len(keys), np.bool_), beside=[OTHER]
    )
    assert not len(found.changed(of(records)))
    assert sorted(chosen) == sorted([*records, *beside])


def test_a_doubted_record_agrees_with_nothing() -> None:
    records = world(1, 100)
    keys = [*sorted(records)[:3], b"nobody's"]
    doubted = np.unique(hashes_of(keys))
    assert of(records).doubting(doubted).changed(of(records)).tolist() == doubted.tolist()
    assert holds(doubted, hashes_of([*keys, b"another's"])).tolist() == [True] * 4 + [False]


def test_digests_are_kept_from_one_look_to_the_next(tmp_path: Path) -> None:
    folder, records = DigestFolder(tmp_path / "digests"), world(1, 5_000)
    assert folder.load([VERSION]) is None
    first, second = Position({"s": [3]}, 4, 5, {"s": 6}), Position({"s": [7]}, 8, 9, {"s": 10})
    folder.save([VERSION], Kept(of({}), EMPTY_POSITION, EMPTY_POSITION))
    folder.save([VERSION], Kept(of(records), first, second))
    found = folder.load([VERSION])
    assert found is not None
    assert (found.since, found.until) == (first, second)
    assert not len(found.digests.changed(of(records)))
    assert len(list((tmp_path / "digests").iterdir())) == 3, "older ones are deleted"
    assert folder.load([VERSION, OTHER]) is None, "of other definitions"
    next((tmp_path / "digests").glob("keys-*")).unlink()
    assert folder.load([VERSION]) is None
    (tmp_path / "digests" / "head").write_bytes(b"rubbish")
    assert folder.load([VERSION]) is None
