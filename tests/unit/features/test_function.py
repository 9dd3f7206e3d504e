"""`@hr.function`: what identifies it, what it is given, what it may return."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pytest

import headrace as hr
from headrace.core.columns import column_of
from headrace.core.errors import DefinitionError, SchemaError
from headrace.core.schema import DType
from headrace.features.evaluate import evaluate
from headrace.features.expr import problems_of
from headrace.features.function import Function
from headrace.features.nodes import ColumnRef, FunctionCall, Node

FACTOR = 2.0


def scale(x: hr.Column) -> hr.Column:
    return x * FACTOR


@hr.function(returns=float)
def doubled(x: hr.Column, y: hr.Column) -> hr.Column:
    """Twice the sum."""
    return scale(x + y)


class Seen(hr.Event):
    x: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()


def call(function: Function[Any], *args: tuple[str, DType]) -> FunctionCall:
    refs: tuple[Node, ...] = tuple(ColumnRef(name, dtype) for name, dtype in args)
    return FunctionCall(function.name, function.source_hash, refs, function.dtype, function.plain, function.null_pass)


def test_it_makes_an_expression_and_stays_callable() -> None:
    made = doubled(Seen.x, 1.0)
    assert (made.dtype, problems_of(made)) == (DType.FLOAT, [])
    assert doubled.plain(np.array([1.0]), np.array([2.0])).tolist() == [6.0]
    assert doubled.__doc__ == "Twice the sum."


def test_a_wrong_number_of_arguments_is_a_problem_of_the_class() -> None:
    assert "missing a required argument: 'y'" in problems_of(doubled(Seen.x))[0]


def test_it_sees_no_nulls() -> None:
    seen: list[int] = []

    @hr.function(returns=float)
    def noting(x: hr.Column) -> hr.Column:
        seen.append(len(x))
        return x + 1

    columns = {"x": column_of(DType.FLOAT, [1.0, None, 3.0])}
    assert evaluate(call(noting, ("x", DType.FLOAT)), columns, 3).to_pylist() == [2.0, None, 4.0]
    assert evaluate(call(noting, ("x", DType.FLOAT)), {"x": column_of(DType.FLOAT, [None])}, 1).to_pylist() == [None]
    assert seen == [2]


def test_it_may_ask_for_nulls() -> None:
    given: list[Any] = []

    @hr.function(returns=bool, nulls="pass")
    def missing(x: hr.Column, n: hr.Column, t: hr.Column, s: hr.Column) -> hr.Column:
        given.extend([x.dtype, n.dtype, t.dtype, s.tolist()])
        return np.isnan(x) | np.isnan(n) | np.isnat(t)

    node = call(missing, ("x", DType.FLOAT), ("n", DType.INT), ("t", DType.TIMESTAMP), ("s", DType.STRING))
    columns = {
        "x": column_of(DType.FLOAT, [1.0, None, 1.0, 1.0]),
        "n": column_of(DType.INT, [1, 1, None, 1]),
        "t": column_of(DType.TIMESTAMP, [0, 0, 0, None]),
        "s": column_of(DType.STRING, ["a", None, "b", "c"]),
    }
    assert evaluate(node, columns, 4).to_pylist() == [False, True, True, True]
    assert given == [np.dtype("f8"), np.dtype("f8"), np.dtype("M8[us]"), ["a", None, "b", "c"]]


@pytest.mark.parametrize(
    ("returns", "given", "expected"),
    [
        (float, [1.0, np.inf, -0.0], [1.0, None, 0.0]),
        (int, [1.0, np.nan, 3.0], [1, None, 3]),
        (bool, [True, False, True], [True, False, True]),
        (str, ["a", None, "c"], ["a", None, "c"]),
        (datetime, np.array([0, "NaT", 5], "M8[us]"), [0, None, 5]),
    ],
)
def test_what_it_returns_is_made_a_column(returns: type, given: Any, expected: list[Any]) -> None:
    @hr.function(returns=returns)
    def made(x: hr.Column) -> hr.Column:
        return np.asarray(given, object if returns is str else None)

    found = evaluate(call(made, ("x", DType.FLOAT)), {"x": column_of(DType.FLOAT, [1.0, 2.0, 3.0])}, 3)
    assert found.to_pylist() == expected
    assert not np.signbit(found.values[2]) if returns is float else True


def test_another_shape_is_refused_by_name() -> None:
    @hr.function(returns=float)
    def total(x: hr.Column) -> hr.Column:
        return np.asarray(x.sum())

    with pytest.raises(SchemaError, match=r"function total was given 2 rows and returned an array of shape \(\)"):
        evaluate(call(total, ("x", DType.FLOAT)), {"x": column_of(DType.FLOAT, [1.0, 2.0])}, 2)


def test_words_where_numbers_are_declared_are_refused() -> None:
    @hr.function(returns=float)
    def words(x: hr.Column) -> hr.Column:
        return np.array(["a"] * len(x))

    with pytest.raises(SchemaError, match="function words returned <U1 where float is declared"):
        evaluate(call(words, ("x", DType.FLOAT)), {"x": column_of(DType.FLOAT, [1.0])}, 1)


def made_from(body: str, factor: float = 2.0, helper: str = "x * FACTOR", version: int = 1) -> str:
    """Source hash of a function in a file of its own."""
    source = f"def scale(x):\n    return {helper}\ndef f(x, y):\n{body}\n"
    names: dict[str, Any] = {"__name__": "features", "FACTOR": factor}
    exec(compile(source, "<features>", "exec"), names)
    import linecache

    linecache.cache["<features>"] = (len(source), None, source.splitlines(keepends=True), "<features>")
    try:
        return hr.function(returns=float, version=version)(names["f"]).source_hash
    finally:
        del linecache.cache["<features>"]


def test_its_hash_is_of_what_it_computes() -> None:
    plain = made_from("    return scale(x + y)")
    assert made_from('    "A docstring."\n    # a comment\n    return scale( x+y )') == plain
    assert made_from("    return scale(x - y)") != plain
    assert made_from("    return scale(x + y)", helper="x / FACTOR") != plain
    assert made_from("    return scale(x + y)", factor=3.0) != plain
    assert made_from("    return scale(x + y)", version=2) != plain
    assert len(plain) == 16


def test_wrong_declarations() -> None:
    with pytest.raises(DefinitionError, match="returns is bool, int, float"):
        hr.function(returns=complex)
    with pytest.raises(DefinitionError, match='nulls is "skip" or "pass"'):
        hr.function(returns=float, nulls="keep")  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="decorates a plain function"):
        hr.function(returns=float)(np.sqrt)
