"""Expressions over columns against plain Python over rows; a row has the same value whatever stands beside it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.columns import Column, column_of
from headrace.core.errors import SchemaError
from headrace.core.schema import DType
from headrace.features.evaluate import evaluate
from headrace.features.nodes import Call, ColumnRef, Literal, Node
from headrace.features.typing_rules import operation_dtype

INT, FLOAT, BOOL, STRING = DType.INT, DType.FLOAT, DType.BOOL, DType.STRING
TIMESTAMP, DURATION = DType.TIMESTAMP, DType.DURATION
COLUMNS = {"i": INT, "j": INT, "x": FLOAT, "y": FLOAT, "b": BOOL, "c": BOOL, "s": STRING, "t": TIMESTAMP, "d": DURATION}
EDGES = [0, 1, -1, 2**63 - 1, -(2**63), 2**62, -(2**62), 3_037_000_500, 2**53 + 1]
VALUES: dict[DType, st.SearchStrategy[Any]] = {
    INT: st.sampled_from(EDGES) | st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9),
    FLOAT: st.sampled_from([0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, 0.1]) | st.floats(-5, 5),
    BOOL: st.booleans(),
    STRING: st.sampled_from(["", "a", "b", "é", "zz", "\0", "a\0", "a\0b"]),
    TIMESTAMP: st.integers(0, 2**52) | st.sampled_from(EDGES),
    DURATION: st.integers(-(2**45), 2**45) | st.sampled_from(EDGES),
}
UNARY = ["neg", "not", "is_null", "seconds", "hours", "days"]
BINARY = ["add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "fill_null"]


def plain(value: Any) -> Any:
    """A value as columns hold it: no −0.0."""
    return value + 0.0 if isinstance(value, float) else value


@st.composite
def nodes(draw: st.DrawFn, depth: int = 3) -> Node:
    """A well-typed tree."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        if draw(st.booleans()):
            name = draw(st.sampled_from(sorted(COLUMNS)))
            return ColumnRef(name, COLUMNS[name])
        dtype = draw(st.sampled_from(sorted(VALUES)))
        return Literal(draw(st.none() | VALUES[dtype].map(plain)), dtype)
    op = draw(st.sampled_from([*UNARY, *BINARY, "between", "is_in"]))
    count = 3 if op == "between" else (1 if op in (*UNARY, "is_in") else 2)
    args = tuple(draw(nodes(depth - 1)) for _ in range(count))
    params: tuple[Any, ...] = ()
    if op == "is_in" and args[0].dtype in VALUES:
        params = tuple(draw(st.lists(VALUES[args[0].dtype].map(plain), max_size=3)))
    dtype_found = operation_dtype(op, tuple(arg.dtype for arg in args))
    return args[0] if dtype_found is None else Call(op, args, dtype_found, params)


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    row = st.fixed_dictionaries({name: st.none() | VALUES[dtype].map(plain) for name, dtype in COLUMNS.items()})
    return draw(st.lists(row, min_size=1, max_size=6))


def oracle(node: Node, row: dict[str, Any]) -> Any:
    """One row, in plain Python."""
    if isinstance(node, ColumnRef):
        return row[node.name]
    if isinstance(node, Literal):
        return node.value
    assert isinstance(node, Call)
    args = [oracle(arg, row) for arg in node.args]
    if node.op == "is_null":
        return args[0] is None
    if node.op == "fill_null":
        filled = args[1] if args[0] is None else args[0]
        return float(filled) if filled is not None and node.dtype is FLOAT else filled
    if None in args:
        return None
    return finished(node, computed(node, args))


def computed(node: Call, args: list[Any]) -> Any:
    a, b = args[0], args[1] if len(args) > 1 else None
    if FLOAT in [arg.dtype for arg in node.args] or node.op == "div":
        args = [float(value) for value in args]
        a, b = args[0], args[1] if len(args) > 1 else None
    if node.op == "div":
        return None if b == 0 else a / b
    if node.op in ("seconds", "hours", "days"):
        return float(a) / {"seconds": 1e6, "hours": 3.6e9, "days": 8.64e10}[node.op]
    simple = {
        "add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b, "neg": lambda: -a, "not": lambda: not a,
        "eq": lambda: a == b, "ne": lambda: a != b, "lt": lambda: a < b, "le": lambda: a <= b, "gt": lambda: a > b,
        "ge": lambda: a >= b, "between": lambda: args[1] <= a <= args[2], "is_in": lambda: a in node.params,
        "and": lambda: a and b, "or": lambda: a or b,
    }  # fmt: skip
    return simple[node.op]()


def finished(node: Call, value: Any) -> Any:
    """The null rules of results: not finite, or out of int64."""
    if value is None or node.dtype is BOOL:
        return value
    if node.dtype is FLOAT:
        return value + 0.0 if math.isfinite(value) else None
    return value if -(2**63) <= value < 2**63 else None


def columns_of(rows: list[dict[str, Any]]) -> dict[str, Column]:
    return {name: column_of(dtype, [row[name] for row in rows]) for name, dtype in COLUMNS.items()}


def bits(values: list[Any]) -> list[Any]:
    """Values with their type and, for floats, their sign and every bit."""
    return [(type(value).__name__, value.hex() if isinstance(value, float) else value) for value in values]


@given(nodes(), tables())
def test_as_plain_python_says(node: Node, rows: list[dict[str, Any]]) -> None:
    found = evaluate(node, columns_of(rows), len(rows))
    assert found.dtype is node.dtype
    assert bits(found.to_pylist()) == bits([oracle(node, row) for row in rows])


@pytest.mark.parametrize("text", ["a", "a\0", "a\0\0", "\0", ""])
@pytest.mark.parametrize("op", ["eq", "ne", "lt", "ge", "is_in", "between", "fill_null"])
def test_the_nuls_at_the_end_of_a_constant_text_are_a_part_of_it(op: str, text: str) -> None:
    rows = [{**dict.fromkeys(COLUMNS), "s": value} for value in ("a", "a\0", "a\0\0", "\0", "", "b", None)]
    literal = Literal(text, STRING)
    args = {"is_in": (), "between": (literal, literal)}.get(op, (literal,))
    params = (text, "b") if op == "is_in" else ()
    node = Call(op, (ColumnRef("s", STRING), *args), STRING if op == "fill_null" else BOOL, params)
    assert evaluate(node, columns_of(rows), len(rows)).to_pylist() == [oracle(node, row) for row in rows]


@given(nodes(), tables())
def test_the_whole_is_its_rows(node: Node, rows: list[dict[str, Any]]) -> None:
    whole = evaluate(node, columns_of(rows), len(rows)).to_pylist()
    single = [evaluate(node, columns_of([row]), 1).to_pylist()[0] for row in rows]
    assert bits(whole) == bits(single)


@pytest.mark.parametrize(
    ("left", "right", "both", "either"),
    [
        (True, None, None, None),
        (False, None, None, None),
        (None, True, None, None),
        (None, False, None, None),
        (None, None, None, None),
        (True, False, False, True),
    ],
)
def test_a_null_on_either_side_is_null(
    left: bool | None, right: bool | None, both: bool | None, either: bool | None
) -> None:
    columns = {"b": column_of(BOOL, [left]), "c": column_of(BOOL, [right])}
    args = (ColumnRef("b", BOOL), ColumnRef("c", BOOL))
    assert evaluate(Call("and", args, BOOL), columns, 1).to_pylist() == [both]
    assert evaluate(Call("or", args, BOOL), columns, 1).to_pylist() == [either]


def test_negative_zero_is_zero() -> None:
    columns = {"x": column_of(FLOAT, [0.0]), "y": column_of(FLOAT, [-1.0])}
    x, y = ColumnRef("x", FLOAT), ColumnRef("y", FLOAT)
    for node in (Call("mul", (x, y), FLOAT), Call("div", (x, y), FLOAT), Call("neg", (x,), FLOAT)):
        assert not np.signbit(evaluate(node, columns, 1).values[0])


def test_cosine_of_lists() -> None:
    a = column_of(DType.LIST, [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], None, [3.0, 4.0]])
    b = column_of(DType.LIST, [[2.0, 0.0], [-1.0, -1.0], [1.0, 0.0], [1.0, 0.0], [4.0, 3.0]])
    node = Call("cosine", (ColumnRef("a", DType.LIST), ColumnRef("b", DType.LIST)), FLOAT)
    found = evaluate(node, {"a": a, "b": b}, 5).to_pylist()
    assert found[0] == 1.0
    assert found[1] == pytest.approx(-1.0)
    assert found[2:4] == [None, None]
    assert found[4] == 24 / 25


@given(st.lists(st.lists(st.floats(-10, 10), min_size=5, max_size=5), min_size=1, max_size=40))
def test_cosine_of_a_row_does_not_depend_on_the_others(lists: list[list[float]]) -> None:
    node = Call("cosine", (ColumnRef("a", DType.LIST), ColumnRef("b", DType.LIST)), FLOAT)
    a, b = column_of(DType.LIST, lists), column_of(DType.LIST, lists[::-1])
    whole = evaluate(node, {"a": a, "b": b}, len(lists)).to_pylist()
    for index in range(len(lists)):
        at = np.array([index])
        assert bits(evaluate(node, {"a": a.take(at), "b": b.take(at)}, 1).to_pylist()) == bits([whole[index]])


def test_a_missing_column_is_named() -> None:
    with pytest.raises(SchemaError, match='no column "z" to compute with') as raised:
        evaluate(Call("neg", (ColumnRef("z", FLOAT),), FLOAT), {}, 0)
    assert raised.value.field == "z"


def test_no_rows() -> None:
    columns = {"i": column_of(INT, []), "t": column_of(TIMESTAMP, []), "s": column_of(STRING, [])}
    for node in (
        Call("add", (ColumnRef("i", INT), Literal(1, INT)), INT),
        Call("hour", (ColumnRef("t", TIMESTAMP),), INT, ("Europe/Berlin",)),
        Call("eq", (ColumnRef("s", STRING), Literal("a", STRING)), BOOL),
        Literal(None, STRING),
    ):
        assert evaluate(node, columns, 0).to_pylist() == []
