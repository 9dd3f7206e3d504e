"""Declared checks on what a batch run returned: numbers, and rows that a person can look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headrace.core.errors import SchemaError
from headrace.core.time import to_us
from headrace.features.plan import CheckSpec, TablePlan

_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class CheckFailure:
    """A check that did not hold: the sentence for people, the numbers behind it, and up to three rows at fault."""

    check: CheckSpec
    message: str
    numbers: dict[str, Any]
    examples: list[dict[str, Any]] = field(default_factory=list)


def evaluate_checks(table: TablePlan, rows: pa.Table) -> list[CheckFailure]:
    """The checks of `table` that `rows` fail, in declared order; NaN counts as null.

    `unique` without columns is of the key and the event time. Raises SchemaError if a check names a column that the
    query did not return.
    """
    failures = []
    for check in table.checks:
        failure = _CHECKS[check.kind](table, check, dict(check.params), rows)
        if failure is not None:
            failures.append(failure)
    return failures


def _rows(table: TablePlan, check: CheckSpec, params: dict[str, Any], rows: pa.Table) -> CheckFailure | None:
    least, most, n = params.get("min"), params.get("max"), rows.num_rows
    if (least is None or n >= least) and (most is None or n <= most):
        return None
    wanted = " and ".join(
        [f"at least {least}"] * (least is not None) + [f"at most {most}"] * (most is not None)
    )  # fmt: skip
    return CheckFailure(check, f"{n} rows, {wanted} wanted", {"rows": n})


def _null_share(table: TablePlan, check: CheckSpec, params: dict[str, Any], rows: pa.Table) -> CheckFailure | None:
    column, most = _column(table, rows, params["column"]), params["max"]
    if not len(column):
        return None
    if not column.null_count and not pa.types.is_floating(column.type):
        return None
    null = _nulls(column)
    count = pc.sum(null).as_py()
    share = count / len(column)
    if share <= most:
        return None
    message = f'"{params["column"]}" is null in {count} of {len(column)} rows ({share:.1%}), at most {most:.1%} wanted'
    return CheckFailure(check, message, {"nulls": count, "rows": len(column), "share": share}, _where(rows, null))


def _unique(table: TablePlan, check: CheckSpec, params: dict[str, Any], rows: pa.Table) -> CheckFailure | None:
    names = list(params.get("columns") or [])
    if not names:
        names = [part.name for part in table.key]
        if table.schema.time_field is not None:
            names.append(table.schema.time_field)
    chosen = pa.table({str(index): _column(table, rows, name) for index, name in enumerate(names)})
    if _all_differ(chosen):
        return None
    values = list(zip(*[column.to_pylist() for column in chosen.columns], strict=True))
    if len(set(values)) == len(values):
        return None
    often = {value for value, count in Counter(values).items() if count > 1}
    doubled = pa.array([value in often for value in values])
    extra = len(values) - len(set(values))
    message = f"{extra} of {len(values)} rows repeat a combination of {', '.join(names)}, which should be unique"
    return CheckFailure(check, message, {"repeated": extra, "rows": len(values)}, _where(rows, doubled))


def _all_differ(rows: pa.Table) -> bool:
    """True only if no two rows are equal; types that cannot be grouped are looked at one by one."""
    try:
        groups = rows.group_by(rows.column_names, use_threads=False).aggregate([])
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return bool(groups.num_rows == rows.num_rows)


def _in_range(table: TablePlan, check: CheckSpec, params: dict[str, Any], rows: pa.Table) -> CheckFailure | None:
    column = _column(table, rows, params["column"])
    least, most = params.get("min"), params.get("max")
    values = _numbers(column)
    extremes = pc.min_max(values).as_py()  # which passes over null and NaN
    low, high = extremes["min"], extremes["max"]
    if (least is None or low is None or not low < _bound(least)) and (
        most is None or high is None or not high > _bound(most)
    ):
        return None
    values = pc.if_else(_nulls(column), None, values)
    outside = pa.chunked_array([pa.repeat(False, len(column))])
    if least is not None:
        outside = pc.or_(outside, pc.fill_null(pc.less(values, _bound(least)), False))
    if most is not None:
        outside = pc.or_(outside, pc.fill_null(pc.greater(values, _bound(most)), False))
    count = pc.sum(outside).as_py()
    message = (
        f'"{params["column"]}" lies outside [{"" if least is None else least}, {"" if most is None else most}] '
        f"in {count} of {len(column)} rows (from {low} to {high})"
    )
    numbers = {"outside": count, "rows": len(column), "min": low, "max": high}
    return CheckFailure(check, message, numbers, _where(rows, outside))


_CHECKS: dict[str, Callable[[TablePlan, CheckSpec, dict[str, Any], pa.Table], CheckFailure | None]] = {
    "rows": _rows,
    "null_share": _null_share,
    "unique": _unique,
    "in_range": _in_range,
}


def _column(table: TablePlan, rows: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in rows.column_names:
        raise SchemaError(
            f'a check of table {table.name} reads "{name}", which its query does not return; '
            f"it returns {', '.join(rows.column_names)}",
            field=name,
        )
    return rows.column(name)


def _nulls(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    if pa.types.is_duration(kind):
        return column.cast(pa.duration("us"), safe=False).cast(pa.int64())
    return column


def _bound(value: Any) -> Any:
    return to_us(value) if isinstance(value, datetime) else value


def _where(rows: pa.Table, mask: Any) -> list[dict[str, Any]]:
    chosen: list[dict[str, Any]] = rows.filter(mask).slice(0, _EXAMPLES).to_pylist()
    return chosen
