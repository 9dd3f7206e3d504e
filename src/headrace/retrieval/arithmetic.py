"""Columns that are arithmetic of numbers that the kernel has written, in one compiled pass over the rows.

Ratios and differences of features are what most features of features are. For one request the calls of NumPy that
`features/evaluate.py` makes for them take longer than the windows they are made of. The bits are the same: the same
operations on float64, null where an operand is null or a result is not finite, and no -0.0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from headrace.core.columns import BoolArray, IntArray
from headrace.core.schema import DType
from headrace.features.nodes import Call, ColumnRef, Literal, Node

_LOAD_FLOAT, _LOAD_INT, _ADD, _SUBTRACT, _MULTIPLY, _DIVIDE, _NEGATE, _STORE = range(8)
_OPERATIONS = {"add": _ADD, "sub": _SUBTRACT, "mul": _MULTIPLY, "div": _DIVIDE, "neg": _NEGATE}
_NUMBERS = (DType.FLOAT, DType.INT)


class Arithmetic:
    """Give it columns with `add`, then `run` it over rows; an expression that it cannot compute it refuses."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, int, int, int]] = []
        self._constants: list[float] = []
        self._known: dict[Node, int] = {}
        self._tables: tuple[IntArray, Any, Any, BoolArray] | None = None

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, column: int, node: Node | None) -> bool:
        """Compute the visible column number `column` by `node`, whose columns are named by the numbers of slots.

        False if it is no arithmetic of numbers with a float result; nothing is changed then.
        """
        if not isinstance(node, Call) or not _is_arithmetic(node):
            return False
        self._steps.append((_STORE, self._compile(node), 0, column))
        self._tables = None
        return True

    def run(self, words: IntArray, valid: BoolArray, out: IntArray, out_valid: BoolArray) -> None:
        """Read slots from `words` and `valid` [n, slots], write columns of `out` and `out_valid` [n, columns]."""
        if self._tables is None:
            size = max((step[3] for step in self._steps if step[0] != _STORE), default=0) + 1
            values = np.zeros(size + len(self._constants))
            for index, constant in enumerate(self._constants):
                values[size + index] = constant
            # Registers first, constants behind them: those are always there.
            present = np.ones(len(values), np.bool_)
            steps = [tuple(size - 1 - item if item < 0 else item for item in step) for step in self._steps]
            self._tables = np.array(steps, np.int64), len(values), values, present
        steps_table, _, values, present = self._tables
        _run(
            steps_table, values.copy(), present.copy(), words, words.view(np.float64), valid,
            out.view(np.float64), out_valid,
        )  # fmt: skip

    def _compile(self, node: Node) -> int:
        """The register of a value; constants are -1, -2, …"""
        if node in self._known:
            return self._known[node]
        if isinstance(node, Literal):
            self._constants.append(float(node.value))
            self._known[node] = -len(self._constants)
            return self._known[node]
        if isinstance(node, ColumnRef):
            step = (_LOAD_FLOAT if node.dtype is DType.FLOAT else _LOAD_INT, int(node.name), 0)
        else:
            assert isinstance(node, Call)
            args = [self._compile(arg) for arg in node.args]
            step = (_OPERATIONS[node.op], args[0], args[-1])
        register = sum(1 for known in self._steps if known[0] != _STORE)
        self._steps.append((*step, register))
        self._known[node] = register
        return register


def _is_arithmetic(node: Node) -> bool:
    if isinstance(node, Call):
        return node.op in _OPERATIONS and node.dtype is DType.FLOAT and all(_is_arithmetic(arg) for arg in node.args)
    if isinstance(node, Literal):
        return type(node.value) in (int, float)
    return isinstance(node, ColumnRef) and node.dtype in _NUMBERS


@njit(cache=True, nogil=True, error_model="numpy")
def _run(steps, values, present, words, floats, valid, out, out_valid):  # type: ignore[no-untyped-def]
    for r in range(words.shape[0]):
        for s in range(steps.shape[0]):
            what, a, b, to = steps[s, 0], steps[s, 1], steps[s, 2], steps[s, 3]
            if what == _STORE:
                out_valid[r, to] = present[a]
                out[r, to] = values[a] if present[a] else 0.0
                continue
            if what <= _LOAD_INT:
                present[to] = valid[r, a]
                values[to] = floats[r, a] if what == _LOAD_FLOAT else float(words[r, a])
                continue
            value = 0.0
            if what == _ADD:
                value = values[a] + values[b]
            elif what == _SUBTRACT:
                value = values[a] - values[b]
            elif what == _MULTIPLY:
                value = values[a] * values[b] + 0.0
            elif what == _DIVIDE:
                value = values[a] / values[b] + 0.0
            else:
                value = 0.0 - values[a]
            # Without an operand the value says nothing, and need not be finite.
            present[to] = present[a] and (what == _NEGATE or present[b]) and math.isfinite(value)
            values[to] = value
