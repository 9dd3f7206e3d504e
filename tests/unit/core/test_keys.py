"""Keys made all at once are those that are made one by one."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.core.keys import (
    JoinedKeys,
    NumberKeys,
    encode_numbers,
    entity_encoder,
    key_encoder,
    record_key,
    record_keys,
)
from headrace.core.schema import DType

VERSION = "00000000000000aa"


@pytest.mark.parametrize("dtype", [DType.INT, DType.TIMESTAMP])
def test_numbers_are_encoded_as_one_by_one(dtype: DType) -> None:
    values = [0, 1, -1, 256, 2**63 - 1, -(2**63), 1_700_000_000_000_000]
    encode = entity_encoder([dtype])
    assert encode_numbers(np.array(values), dtype) == [encode((value,)) for value in values]
    assert encode_numbers(np.array([], np.int64), dtype) == []
    keyed = key_encoder([dtype], VERSION)
    assert encode_numbers(np.array(values), dtype, VERSION) == [keyed((value,)) for value in values]


def test_numbers_of_several_kinds_are_joined_as_one_by_one() -> None:
    kinds = [(DType.INT, VERSION), (DType.TIMESTAMP, "11" * 8), (DType.INT, "22" * 8)]
    encoders = [key_encoder([dtype], version) for dtype, version in kinds]
    columns = [[0, 2**63 - 1], [1, -(2**63)], [-1, 7]]
    keys = NumberKeys(kinds)
    for row in zip(*columns, strict=True):
        assert keys.of_row(row).listed() == [encode((value,)) for value, encode in zip(row, encoders, strict=True)]
    expected = [encode((value,)) for column, encode in zip(columns, encoders, strict=True) for value in column]
    assert keys.of_rows([np.array(column) for column in columns]).listed() == expected
    assert keys.of_rows([np.zeros(0, np.int64)] * 3).listed() == []


def test_joined_keys_are_those_that_were_joined() -> None:
    one, two = [b"a", b"", b"long" * 100], [b"b"]
    assert (JoinedKeys.of(one) + JoinedKeys.of(two)).listed() == one + two
    assert len(JoinedKeys.of(one)) == 3
    assert JoinedKeys.of([]).listed() == []


def test_record_keys_of_long_entities_are_hashed_too() -> None:
    entities = [b"", b"a", b"b" * 480, b"c" * 481]
    assert record_keys(entities, VERSION) == [record_key(entity, VERSION) for entity in entities]
    assert len(record_keys(entities, VERSION)[3]) < 500


@pytest.mark.parametrize(
    ("dtypes", "keys"),
    [
        ([DType.INT], [(0,), (-1,), (2**63 - 1,), (-(2**63),)]),
        ([DType.TIMESTAMP], [(1_700_000_000_000_000,)]),
        ([DType.BOOL], [(True,), (False,)]),
        ([DType.STRING], [("",), ("ä",), ("s" * 600,)]),
        ([DType.INT, DType.STRING], [(7, "a"), (7, "b" * 600)]),
        ([], [()]),
    ],
)
def test_the_key_of_a_record_is_made_of_its_entity_and_version(dtypes: list[DType], keys: list[tuple[object]]) -> None:
    encode, entity = key_encoder(dtypes, VERSION), entity_encoder(dtypes)
    assert [encode(key) for key in keys] == [record_key(entity(key), VERSION) for key in keys]
