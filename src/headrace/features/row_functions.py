"""Whether a user's functions give a row the same value whatever rows stand beside it.

One row is asked online, millions offline, so a function that looks across rows (a mean, a rank, a running sum) would
give other values in each. Each function is called with made-up rows, whole and one by one. What it raises of these
says nothing: they may lie outside of what it is meant for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

from headrace.core.columns import Column, column_of
from headrace.core.errors import SchemaError
from headrace.core.schema import DType
from headrace.features.call_function import call_function
from headrace.features.evaluate import evaluate
from headrace.features.nodes import FunctionCall, Literal, walk
from headrace.features.plan import ProjectPlan
from headrace.features.plan_json import group_nodes
from headrace.features.site import shown_path

_ROWS = 19
_DAY_US = 86_400_000_000


def function_problems(plan: ProjectPlan) -> list[str]:
    """What is wrong with the functions that the definitions call, with file and line; empty if nothing was found."""
    found: dict[str, str] = {}
    for node in _calls(plan):
        problem = "" if node.source_hash in found else _problem(node)
        if problem:
            code = node.function.__code__
            found[node.source_hash] = f"{shown_path(code.co_filename)}:{code.co_firstlineno} {node.name}(): {problem}"
    return list(found.values())


def _calls(plan: ProjectPlan) -> Iterator[FunctionCall]:
    views = [*plan.views.values(), *(derived.view for derived in plan.derived.values())]
    nodes = [node for group in plan.groups.values() for node in group_nodes(group)]
    nodes += [column.node for view in views for column in view.columns if column.node is not None]
    return (part for node in nodes for part in walk(node) if isinstance(part, FunctionCall))


def _problem(node: FunctionCall) -> str:
    args = [
        evaluate(arg, {}, _ROWS) if isinstance(arg, Literal) else _made_up(arg.dtype, place)
        for place, arg in enumerate(node.args)
    ]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            whole = call_function(node, args, _ROWS).to_pylist()
        except SchemaError as error:
            return str(error)
        except Exception:
            return ""
        for row in range(_ROWS):
            try:
                alone = call_function(node, [arg.take(np.array([row])) for arg in args], 1).to_pylist()[0]
            except Exception as error:
                return f"takes {_ROWS} rows, but not one alone: {type(error).__name__}: {error}"
            if alone != whole[row]:
                return (
                    f"gives a row {whole[row]!r} beside others and {alone!r} alone; compute each row from itself, and "
                    "what spans rows by an aggregation"
                )
    return ""


def _made_up(dtype: DType, seed: int) -> Column:
    """Rows of a type, the same at every call; arguments differ from each other."""
    random = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return column_of(dtype, (random.random(_ROWS) < 0.5).tolist())
    if dtype is DType.INT:
        return column_of(dtype, random.integers(0, 100, _ROWS).tolist())
    if dtype is DType.FLOAT:
        return column_of(dtype, random.uniform(-50, 50, _ROWS).tolist())
    if dtype in (DType.TIMESTAMP, DType.DURATION):
        start = 20_000 * _DAY_US if dtype is DType.TIMESTAMP else 0
        return column_of(dtype, (start + random.integers(0, 400 * _DAY_US, _ROWS)).tolist())
    if dtype is DType.STRING:
        return column_of(dtype, [f"text {number}" for number in random.integers(0, 9, _ROWS).tolist()])
    return column_of(dtype, [random.uniform(-1, 1, 8).tolist() if dtype is DType.LIST else None] * _ROWS)
