"""Compiled expressions give the bits of the walked ones, share what occurs twice, and always end in arrays."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.core.columns import Column, column_of
from headrace.core.schema import DType
from headrace.core.time import MAX_US, parse_time
from headrace.features import program as compiled
from headrace.features.evaluate import evaluate
from headrace.features.nodes import Call, ColumnRef, FunctionCall, Literal, Node
from headrace.features.program import Program

X, Y = ColumnRef("x", DType.FLOAT), ColumnRef("y", DType.FLOAT)
S, NUL = ColumnRef("s", DType.STRING), Literal("a\0", DType.STRING)
K, AT = ColumnRef("k", DType.INT), ColumnRef("at", DType.TIMESTAMP)
COLUMNS = {
    "x": column_of(DType.FLOAT, [1.5, None, -2.0, 0.0]),
    "y": column_of(DType.FLOAT, [0.0, 3.0, 4.0, 0.0]),
    "k": column_of(DType.INT, [2**62, 3, None, -5]),
    "s": column_of(DType.STRING, ["a", "a\0", None, ""]),
    "at": column_of(DType.TIMESTAMP, [0, None, parse_time("2013-03-10T06:59:59"), MAX_US]),
}
NY = ("America/New_York",)
HALF = Literal(0.5, DType.FLOAT)


def doubled(values: np.ndarray) -> np.ndarray:
    return values * 2


EXPRESSIONS: dict[str, Node] = {
    "column": X,
    "literal": HALF,
    "null": Literal(None, DType.FLOAT),
    "null in a sum": Call("add", (X, Literal(None, DType.FLOAT)), DType.FLOAT),
    "division": Call("div", (X, Y), DType.FLOAT),
    "overflow": Call("mul", (K, Literal(4, DType.INT)), DType.INT),
    "constants": Call("add", (HALF, HALF), DType.FLOAT),
    "constant filled by a column": Call("fill_null", (HALF, X), DType.FLOAT),
    "column filled by a constant": Call("fill_null", (X, HALF), DType.FLOAT),
    "sum of a filled constant": Call("sub", (Y, Call("fill_null", (HALF, X), DType.FLOAT)), DType.FLOAT),
    "condition": Call("and", (Call("gt", (X, HALF), DType.BOOL), Call("is_null", (K,), DType.BOOL)), DType.BOOL),
    "one of": Call("is_in", (K,), DType.BOOL, (3, -5)),
    "text": Call("eq", (S, NUL), DType.BOOL),
    "text filled": Call("fill_null", (S, NUL), DType.STRING),
    "texts": Call("is_in", (S,), DType.BOOL, ("a\0", "\0")),
    "constant text": NUL,
    "hour": Call("hour", (AT,), DType.INT, NY),
    "weekday": Call("weekday", (AT,), DType.INT, NY),
    "month": Call("month", (AT,), DType.INT),
    "hour of a constant": Call("hour", (Literal(parse_time("2013-07-01"), DType.TIMESTAMP),), DType.INT, NY),
    "function": FunctionCall("doubled", "0" * 16, (X,), DType.FLOAT, doubled),
    "function of a constant": FunctionCall("doubled", "0" * 16, (HALF,), DType.FLOAT, doubled),
}


def run(nodes: dict[str, Node], n: int) -> dict[str, Column]:
    program, inputs = Program(), {}

    def resolve(name: str) -> int:
        if name not in inputs:
            inputs[name] = program.reserve()
        return inputs[name]

    registers = {name: program.add(node, resolve) for name, node in nodes.items()}
    values, masks = [None] * program.registers, [None] * program.registers
    for name, register in inputs.items():
        values[register] = COLUMNS[name].values[:n]
        valid = COLUMNS[name].valid
        masks[register] = None if valid is None else valid[:n]
    program.run(values, masks, n)
    return {name: Column(nodes[name].dtype, values[at], masks[at]) for name, at in registers.items()}


@pytest.mark.parametrize("n", [0, 1, 4])
def test_the_values_are_those_of_evaluate(n: int) -> None:
    columns = {name: column.take(np.arange(n)) for name, column in COLUMNS.items()}
    found = run(EXPRESSIONS, n)
    for name, node in EXPRESSIONS.items():
        wanted = evaluate(node, columns, n)
        assert isinstance(found[name].values, np.ndarray), name
        assert found[name].values.dtype == wanted.values.dtype, name
        assert repr(found[name].to_pylist()) == repr(wanted.to_pylist()), name


def test_calendar_fields_of_one_timestamp_look_up_its_local_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = compiled.local_time

    def counted(us: np.ndarray, zone: str) -> object:
        asked.append(zone)
        return real(us, zone)

    monkeypatch.setattr(compiled, "local_time", counted)
    same = {op: Call(op, (AT,), DType.INT, NY) for op in ("hour", "weekday", "month", "day")}
    run({**same, "utc": Call("hour", (AT,), DType.INT)}, 4)
    assert sorted(asked) == ["America/New_York", "UTC"]


def test_an_integer_and_a_float_of_the_same_size_are_not_one_part() -> None:
    whole = Call("is_in", (K,), DType.BOOL, (3,))
    broken = Call("is_in", (K,), DType.BOOL, (3.0,))
    program = Program()
    register = program.reserve()
    assert program.add(whole, lambda name: register) != program.add(broken, lambda name: register)
    assert program.add(whole, lambda name: register) == program.add(whole, lambda name: register)
