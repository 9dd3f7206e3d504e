"""Writes docs/aggregations.md: what each aggregation takes and gives, from the classes of the catalog.

`--check` only says whether the page is up to date.
"""

from __future__ import annotations

import sys
from pathlib import Path

from generated import write_or_check

from headrace.aggregations.aggregation import Aggregation
from headrace.aggregations.registry import aggregations
from headrace.core.schema import SCALARS, DType
from headrace.features.typing_rules import shown

PAGE = Path(__file__).resolve().parent.parent / "docs" / "aggregations.md"
HEADER = """# Aggregations

Written by `make docs` from the classes in `src/headrace/aggregations/catalog/`; edit those, not this page.
All take `window`, `where`, `hop`, `delay` and `doc`. What they do with nulls, ties and empty windows, with examples:
[semantics.md](semantics.md).

| function | takes | gives | without window | `by=` | value |
|---|---|---|---|---|---|
"""


def takes(kind: Aggregation) -> str:
    """The column types of an aggregation, in words."""
    types = set(kind.takes)
    parts = ["events"] if kind.takes_events or not types else []
    if types >= SCALARS:
        parts.append("any single value")
        types -= SCALARS
    parts += sorted(shown(dtype) for dtype in types)
    return ", ".join(parts)


def gives(kind: Aggregation) -> str:
    """The types of its values, in words; that of each column where it depends on it."""
    types = sorted(kind.takes - {DType.LIST}) or [None]
    found = {kind.gives_for(dtype) for dtype in types}
    if len(found) == 1:
        return shown(found.pop())
    like = kind.gives_for(DType.STRING) if DType.STRING in kind.takes else kind.gives_for(DType.INT)
    return "the column's type" if not like.is_nested else shown(like).replace("str", "type")


def row(kind: Aggregation) -> str:
    """The line of an aggregation in the table."""
    text = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    lifetime, by = "no" if kind.needs_window else "yes", "yes" if kind.by_code is not None else "no"
    window = "64 half-lives" if "halflife_us" in kind.parameters else lifetime
    return f"| `hr.{kind.name}` | {takes(kind)} | {gives(kind)} | {window} | {by} | {text} |"


def page() -> str:
    return HEADER + "\n".join(row(kind) for kind in aggregations().values()) + "\n"


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, PAGE, page))
