"""What the estimator reads: numbers, codes, and NaN for what is null or was never seen."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.core.columns import column_of
from headrace.core.errors import SchemaError
from headrace.core.schema import DType
from headrace.registry.preprocessing import MAX_CATEGORIES, Preprocessor
from headrace.retrieval.rows import FeatureBlock
from tests.unit.training.blocks import block_of

NAN = float("nan")


def sample() -> FeatureBlock:
    return block_of(
        f=(DType.FLOAT, [1.5, None, -2.25]),
        i=(DType.INT, [7, -8, None]),
        t=(DType.TIMESTAMP, [1, 2, 3]),
        s=(DType.STRING, ["JFK", None, "LGA"]),
        b=(DType.BOOL, [True, None, False]),
        d=(DType.DURATION, [1_000, 0, None]),
        v=(DType.LIST, [[1.0], None, [2.0]]),
    )


def test_times_and_lists_stay_out_and_the_rest_is_numbers() -> None:
    preprocessor = Preprocessor.fit(sample())
    assert preprocessor.columns == ("f", "i", "s", "b", "d")
    expected = [[1.5, 7, 0, 1, 1_000], [NAN, -8, NAN, NAN, 0], [-2.25, NAN, 1, 0, NAN]]
    matrix = preprocessor.transform(sample())
    np.testing.assert_array_equal(matrix, np.array(expected))
    assert matrix.dtype == np.float64
    assert matrix.flags.c_contiguous


def test_transform_leaves_the_block_alone() -> None:
    block = block_of(f=(DType.FLOAT, [1.0, None]), i=(DType.INT, [3, None]))
    before = block.words.copy(), block.valid.copy()
    Preprocessor.fit(block).transform(block)
    np.testing.assert_array_equal(block.words, before[0])
    np.testing.assert_array_equal(block.valid, before[1])


def test_codes_are_by_frequency_then_text_and_unknown_strings_are_nan() -> None:
    block = block_of(s=(DType.STRING, ["b", "c", "a", "c", None]))
    preprocessor = Preprocessor.fit(block)
    assert preprocessor.vocabularies == {"s": ("c", "a", "b")}
    seen = preprocessor.transform(block_of(s=(DType.STRING, ["a", "zz", "c", None])))
    np.testing.assert_array_equal(seen[:, 0], [1.0, NAN, 0.0, NAN])


def test_rare_strings_beyond_the_limit_get_no_code() -> None:
    texts = [f"{number:04}" for number in range(MAX_CATEGORIES + 1)]
    preprocessor = Preprocessor.fit(block_of(s=(DType.STRING, [*texts, *texts[1:]])))
    codes = preprocessor.transform(block_of(s=(DType.STRING, texts)))[:, 0]
    np.testing.assert_array_equal(codes, [NAN, *range(MAX_CATEGORIES)])


def test_columns_are_found_by_name_whatever_their_order() -> None:
    block = sample()
    preprocessor = Preprocessor.fit(block)
    expected = preprocessor.transform(block)
    turned = block.select(tuple(reversed(block.names)))
    np.testing.assert_array_equal(preprocessor.transform(turned), expected)
    np.testing.assert_array_equal(preprocessor.transform(block), expected)


def test_a_missing_or_retyped_column_is_named() -> None:
    preprocessor = Preprocessor.fit(sample())
    with pytest.raises(SchemaError, match='"i"') as missing:
        preprocessor.transform(sample().select(["f", "s", "b", "d"]))
    assert missing.value.field == "i"
    with pytest.raises(SchemaError, match='"f" is int, the model was trained on float'):
        Preprocessor.fit(block_of(f=(DType.FLOAT, [1.0]))).transform(block_of(f=(DType.INT, [1])))


def test_same_names_of_other_types_are_noticed_after_a_first_transform() -> None:
    preprocessor = Preprocessor.fit(block_of(f=(DType.FLOAT, [1.0])))
    preprocessor.transform(block_of(f=(DType.FLOAT, [2.0])))
    with pytest.raises(SchemaError, match="trained on float"):
        preprocessor.transform(block_of(f=(DType.INT, [1])))


def test_json_round_trip_transforms_alike() -> None:
    preprocessor = Preprocessor.fit(sample())
    again = Preprocessor.from_json(preprocessor.to_json())
    np.testing.assert_array_equal(again.transform(sample()), preprocessor.transform(sample()))


def test_no_rows_make_an_empty_matrix() -> None:
    preprocessor = Preprocessor.fit(sample())
    assert preprocessor.transform(sample().take(np.array([], np.int64))).shape == (0, 5)


def test_the_helper_builds_words_as_blocks_have_them() -> None:
    assert column_of(DType.FLOAT, [1.5]).values.view(np.int64)[0] == sample().words[0, 0]
