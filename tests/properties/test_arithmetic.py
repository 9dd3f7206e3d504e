"""The compiled arithmetic of rows gives the bits and the nulls of the expressions that it stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import event, example, given, note
from hypothesis import strategies as st

from headrace.core.columns import Column, column_of
from headrace.core.schema import DType
from headrace.features.evaluate import evaluate
from headrace.features.nodes import Call, ColumnRef, Literal, Node, walk
from headrace.features.typing_rules import operation_dtype
from headrace.retrieval.arithmetic import Arithmetic
from headrace.retrieval.rows import block_of
from headrace.testing import strategies
from headrace.testing.oracle import expressions

# Slots are named by their numbers.
SLOTS = {"0": DType.FLOAT, "1": DType.FLOAT, "2": DType.INT, "3": DType.INT}
_DRAWN: dict[DType, st.SearchStrategy[Any]] = {DType.FLOAT: strategies.floats(), DType.INT: strategies.integers()}
_LEAVES: st.SearchStrategy[Node] = st.one_of(
    st.sampled_from([ColumnRef(name, dtype) for name, dtype in SLOTS.items()]),
    # As definitions hold them: −0.0 is 0.0.
    strategies.floats().map(lambda value: Literal(value + 0.0, DType.FLOAT)),
    strategies.integers().map(lambda value: Literal(value, DType.INT)),
)


def _call(op: str, args: tuple[Node, ...]) -> Call:
    dtype = operation_dtype(op, tuple(arg.dtype for arg in args))
    assert dtype is not None
    return Call(op, args, dtype)


def _larger(parts: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    binary = st.builds(_call, st.sampled_from(("add", "sub", "mul", "div")), st.tuples(parts, parts))
    return st.one_of(binary, binary, binary, st.builds(_call, st.just("neg"), st.tuples(parts)))


TREES = st.recursive(_LEAVES, _larger, max_leaves=12)
ROWS = st.lists(
    st.tuples(*(st.one_of(_DRAWN[dtype], _DRAWN[dtype], st.none()) for dtype in SLOTS.values())), min_size=1, max_size=6
)
_A, _N = ColumnRef("0", DType.FLOAT), ColumnRef("2", DType.INT)


def computed(nodes: list[Node], columns: dict[str, Column]) -> list[Column | None]:
    """Each expression by one compiled pass for all; None for those that it refuses."""
    arithmetic, block = Arithmetic(), block_of(columns)
    taken = [arithmetic.add(index, node) for index, node in enumerate(nodes)]
    out, valid = np.zeros((len(block), len(nodes)), np.int64), np.zeros((len(block), len(nodes)), np.bool_)
    if arithmetic:
        arithmetic.run(block.words, block.valid, out, valid)
    return [
        Column(DType.FLOAT, np.ascontiguousarray(out[:, index]).view(np.float64), valid[:, index]) if took else None
        for index, took in enumerate(taken)
    ]


def bits(column: Column) -> list[int | None]:
    """The words of the values, None for null."""
    words = np.ascontiguousarray(column.values).view(np.int64).tolist()
    return [word if ok else None for word, ok in zip(words, column.mask().tolist(), strict=True)]


@given(st.lists(TREES, min_size=1, max_size=4), ROWS)
@example([_call("div", (_A, _A)), _call("neg", (_A,))], [(0.0, None, 0, 0), (-0.0, 1.0, 0, 0), (5e-324, 0.0, 1, 1)])
@example(
    [_call("mul", (_call("mul", (_A, Literal(1e308, DType.FLOAT))), Literal(0.0, DType.FLOAT)))], [(1e308, 1.0, 1, 1)]
)
@example([_call("mul", (_A, Literal(-1.0, DType.FLOAT)))], [(0.0, 0.0, 0, 0)])
@example([_call("div", (_N, _N)), _call("add", (_N, _A))], [(0.5, 0.0, 2**63 - 1, 0), (0.5, 0.0, -(2**63), 0)])
def test_one_pass_gives_what_the_expressions_give(nodes: list[Node], rows: list[tuple[Any, ...]]) -> None:
    columns = {
        name: column_of(dtype, [row[index] for row in rows]) for index, (name, dtype) in enumerate(SLOTS.items())
    }
    for node, found in zip(nodes, computed(nodes, columns), strict=True):
        note(repr(node))
        # Arithmetic of integers is exact or null: that is another computation, which the pass leaves alone.
        whole = any(isinstance(part, Call) and part.dtype is DType.INT for part in walk(node))
        assert (found is None) == (whole or not isinstance(node, Call))
        event("left alone" if found is None else "computed")
        if found is None:
            continue
        assert bits(found) == bits(evaluate(node, columns, len(rows)))
        plain = [expressions.evaluate(node, dict(zip(SLOTS, row, strict=True))) for row in rows]
        assert bits(found) == bits(column_of(DType.FLOAT, plain))


def test_a_part_that_several_columns_share_and_constants_in_any_order() -> None:
    third = _call("div", (_A, Literal(3, DType.INT)))
    nodes: list[Node] = [
        third,
        _call("sub", (third, Literal(3.0, DType.FLOAT))),
        _call("sub", (Literal(3, DType.INT), third)),
        _call("neg", (Literal(2.5, DType.FLOAT),)),
    ]
    columns = {name: column_of(dtype, [1, None]) for name, dtype in SLOTS.items()}
    found = computed(nodes, columns)
    assert [None if column is None else column.to_pylist() for column in found] == [
        [1 / 3, None],
        [1 / 3 - 3.0, None],
        [3.0 - 1 / 3, None],
        [-2.5, -2.5],
    ]
