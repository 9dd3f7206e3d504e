"""Expressions compiled once and evaluated many times: a flat list of steps over numbered registers.

It applies the operations of `features/evaluate.py`, so it gives the same bits; what it saves is the walk over the
trees. A part that occurs more than once is evaluated once: the calendar fields of a timestamp share its local time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from headrace.aggregations.aggregation import Composed, Params
from headrace.core.columns import NUMPY_DTYPES, Column
from headrace.core.schema import DType
from headrace.features.calendar import field_of, local_time
from headrace.features.call_function import call_function
from headrace.features.evaluate import OPERATIONS, Mask, Values, both, ends_in_nul, literal_values, null_values, whole
from headrace.features.nodes import Call, ColumnRef, FunctionCall, Literal, Node

Resolve: TypeAlias = Callable[[str], int]
"""The register that holds the column of this name."""
_Apply: TypeAlias = Callable[[Any, list[Values], list[Mask], int], tuple[Values, Mask]]

_CALENDAR = ("hour", "weekday", "month", "day")


class Program:
    """Steps over registers. Give out registers with `reserve`, add expressions with `add`, then `run`.

    A register holds values (an array, or a scalar that stands for every row) and a mask (None: nothing is null).
    """

    def __init__(self) -> None:
        self.registers = 0
        self._steps: list[tuple[_Apply, Any, tuple[int, ...], int]] = []
        self._constants: list[tuple[int, Values]] = []
        self._known: dict[tuple[Any, ...], int] = {}
        self._arrays: set[int] = set()

    def reserve(self) -> int:
        """A new register, to be filled with an array by the caller before `run`."""
        register = self._new()
        self._arrays.add(register)
        return register

    def add(self, node: Node, resolve: Resolve) -> int:
        """Compile a column; returns the register that holds its values, always an array, after `run`."""
        register = self._add(node, resolve)
        if register in self._arrays:
            return register
        return self._step(_spread, node.dtype, (register,), array=True)

    def finish(self, kind: Composed, params: Params, parts: Sequence[int]) -> int:
        """The register of an aggregation that is made of the values in these registers."""
        return self._step(_finished, (kind, params), tuple(parts), array=True)

    def run(self, values: list[Values], masks: list[Mask], n: int) -> None:
        """Evaluate every step over `n` rows; both lists have `registers` items, those of `reserve` filled in.

        Raises SchemaError if a user's function returns something else than one value per row.
        """
        for register, value in self._constants:
            values[register] = value
        with np.errstate(all="ignore"):
            for apply, what, args, register in self._steps:
                values[register], masks[register] = apply(what, [values[i] for i in args], [masks[i] for i in args], n)

    def _add(self, node: Node, resolve: Resolve) -> int:
        if isinstance(node, ColumnRef):
            return resolve(node.name)
        if isinstance(node, Literal):
            return self._literal(node)
        args = tuple(self._add(arg, resolve) for arg in node.args)
        if isinstance(node, FunctionCall):
            return self._step(_function, node, args, array=True)
        key = (node.op, args, node.dtype, *[(type(item), item) for item in node.params])
        if key not in self._known:
            self._known[key] = self._call(node, args)
        return self._known[key]

    def _literal(self, node: Literal) -> int:
        if node.value is None:
            return self._step(_null, node.dtype, (), array=True)
        if ends_in_nul(node.value):
            return self._step(_text, node.value, (), array=True)
        register = self._new()
        self._constants.append((register, node.value))
        return register

    def _call(self, node: Call, args: tuple[int, ...]) -> int:
        if node.op not in _CALENDAR:
            # Filling the nulls of a scalar gives that scalar; every other result is an array if any argument is.
            decisive = args[:1] if node.op == "fill_null" else args
            array = not self._arrays.isdisjoint(decisive)
            return self._step(OPERATIONS[node.op], node, args, array=array)
        zone = node.params[0] if node.params else "UTC"
        key = ("local", args, zone)
        if key not in self._known:
            self._known[key] = self._step(_local, zone, args, array=True)
        return self._step(_field, node.op, (self._known[key],), array=True)

    def _step(self, apply: _Apply, what: Any, args: tuple[int, ...], *, array: bool = False) -> int:
        register = self._new()
        self._steps.append((apply, what, args, register))
        if array:
            self._arrays.add(register)
        return register

    def _new(self) -> int:
        self.registers += 1
        return self.registers - 1


def _spread(dtype: DType, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    value = values[0]
    return value if isinstance(value, np.ndarray) else np.full(n, value, NUMPY_DTYPES[dtype]), masks[0]


def _finished(what: tuple[Composed, Params], values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    kind, params = what
    there = [np.ones(n, np.bool_) if mask is None else mask for mask in masks]
    return kind.finished([(whole(v, n), ok) for v, ok in zip(values, there, strict=True)], params)


def _null(dtype: DType, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    return null_values(dtype, n)


def _text(value: str, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    return literal_values(value, n), None


def _function(node: FunctionCall, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    args = []
    for arg, value, mask in zip(node.args, values, masks, strict=True):
        array = value if isinstance(value, np.ndarray) else np.full(n, value, NUMPY_DTYPES[arg.dtype])
        args.append(Column(arg.dtype, array, mask))
    made = call_function(node, args, n)
    return made.values, made.valid


def _local(zone: str, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    us = whole(values[0], n)
    if masks[0] is not None:
        us = np.where(masks[0], us, 0)
    local, within = local_time(us, zone)
    return local, both(masks[0], within)


def _field(op: str, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    return field_of(op, values[0]), masks[0]
