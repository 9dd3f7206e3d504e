"""Statistics of the columns of a view or model, computed over history and kept in the catalog for `describe`."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.app.history import LABEL, HistoryRows
from headrace.core.time import to_iso
from headrace.training.statistics import ColumnStatistics, column_statistics

if TYPE_CHECKING:
    from headrace.catalog.catalog import Catalog
    from headrace.features.plan import ProjectPlan, ViewPlan

_SUBJECT = "statistics "


class Statistics(msgspec.Struct, frozen=True):
    """Figures of the columns of `what`, a view or model of version `view_version`, over `rows` of its history.

    `at_us` is when they were computed; `labelled` says whether they tell how much each column tells about the label.
    """

    what: str
    view_version: str
    at_us: int
    rows: int
    labelled: bool
    columns: list[ColumnStatistics]

    def __getitem__(self, name: str) -> ColumnStatistics:
        return {column.name: column for column in self.columns}[str(name)]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(msgspec.to_builtins(self))

    def __str__(self) -> str:
        lines = [f"{self.what}: {self.rows:,} rows"]
        head = f"{'column':<36} {'values':>10} {'null':>6} {'distinct':>9} {'min':>11} {'median':>11} {'max':>11}"
        lines.append(head + (f" {'AUC':>6} {'bits':>7}" if self.labelled else ""))
        ranked = sorted(self.columns, key=lambda c: -(c.information or 0.0)) if self.labelled else self.columns
        return "\n".join(lines + [statistics_line(column, self.labelled) for column in ranked])


def statistics_line(column: ColumnStatistics, labelled: bool) -> str:
    """One column on one line."""
    total = column.count + column.nulls
    null = f"{column.nulls / total:.1%}" if total else "-"
    figures = [column.min, column.quantiles.get("0.5"), column.max]
    shown = " ".join(f"{_short(figure, column.type):>11}" for figure in figures)
    distinct = "-" if column.distinct is None else f"{column.distinct:,}"
    line = f"{column.name:<36} {column.count:>10,} {null:>6} {distinct:>9} {shown}"
    if labelled:
        line += f" {'-' if column.auc is None else format(column.auc, '.3f'):>6}"
        line += f" {'-' if column.information is None else format(column.information, '.4f'):>7}"
    return line


def compute_statistics(
    what: str, view_version: str, rows: HistoryRows, at_us: int, catalog: Catalog, personal: Collection[str] = ()
) -> Statistics:
    """Compute the statistics of rows of history, and keep them; of `personal` columns no single value is in them."""
    label = rows.columns.get(LABEL)
    columns = {name: column for name, column in rows.columns.items() if name != LABEL}
    found = Statistics(what, view_version, at_us, len(rows), label is not None, [
        msgspec.structs.replace(column, min=None, max=None, quantiles={}) if column.name in personal else column
        for column in column_statistics(columns, label)
    ])  # fmt: skip
    catalog.save_profile(_SUBJECT + what, found)
    return found


def personal_columns(view: ViewPlan, plan: ProjectPlan) -> list[str]:
    """Columns of a view that show a personal field, of the request or of a table, as it is."""
    found = [field.name for field in view.request if field.personal]
    for column in view.columns:
        if column.binding is not None and column.feature and view.bindings[column.binding].is_table:
            fields = plan.tables[view.bindings[column.binding].source].schema
            if column.feature in fields and fields[column.feature].personal:
                found.append(column.name)
    return found


def kept_statistics(catalog: Catalog, what: str, view_version: str) -> Statistics | None:
    """What was computed last for a view or model, if it has not changed since."""
    stored = catalog.profile(_SUBJECT + what)
    found = None if stored is None else msgspec.convert(stored, Statistics)
    return found if found is not None and found.view_version == view_version else None


def _short(value: float | None, kind: str) -> str:
    if value is None:
        return "-"
    if kind == "timestamp":
        return to_iso(int(value))[:10]
    return f"{value:.5g}"
