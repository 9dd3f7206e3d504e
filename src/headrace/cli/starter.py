"""The files that a new project starts with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from headrace.core.errors import ConfigError

_CONFIG = """[project]
# owner = "team@company.example"      # for whatever names none
"""

_EXAMPLE = '''"""What this project knows: events, features, a view."""

from __future__ import annotations

from datetime import datetime

import headrace as hr

User = hr.Entity("user")


class Payment(hr.Event):
    """Money that a user pays."""

    payment_id: hr.Field[str] = hr.id()
    user: hr.Field[str] = hr.key(User)
    amount: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()


class Spend(hr.FeatureGroup, key=Payment.user):
    """What a user has paid lately."""

    n = hr.count(window=["10m", "1d"])
    total = hr.sum(Payment.amount, window=["10m", "1d"])


view = hr.FeatureView("payment", request=Payment, features=[Spend, Payment.amount])
'''

_HEAD = '''"""What this project knows: events, features, a view."""

from __future__ import annotations

from datetime import datetime

import headrace as hr

'''


def write_project(folder: Path, source: Path | None) -> tuple[list[Path], str]:
    """Write headrace.toml and features.py; returns the files and the stream's name.

    With a file (Parquet or CSV) the event is inferred from its columns. Raises ConfigError if the folder has a project.
    """
    features, config = folder / "features.py", folder / "headrace.toml"
    for file in (features, config):
        if file.exists():
            raise ConfigError(f"{file} exists already; choose another folder")
    text, stream = (_EXAMPLE, "payment") if source is None else _inferred(source)
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(_CONFIG)
    features.write_text(text)
    return [config, features], stream


def _inferred(source: Path) -> tuple[str, str]:
    schema, nulls, different = _schema_of(source)
    stream = re.sub(r"[^a-z0-9]+", "_", source.name.split(".")[0].lower()).strip("_") or "event"
    cls = "".join(part.capitalize() for part in stream.split("_"))
    kinds = {name: _annotation(kind) for name, kind in schema.items()}
    times = [name for name, kind in kinds.items() if kind == "datetime"]
    if not times:
        raise ConfigError(f"{source} has no column of times, so no event time; its columns are {', '.join(schema)}")
    entities, lines, key = [], [], None
    named = [name for name in (f"{stream}_id", "id") if name in kinds]
    ids = named or [name for name in different if name.endswith("_id") and kinds[name] in ("str", "int")]
    keys = {name for name, kind in kinds.items() if kind in ("str", "int") and name.endswith("_id")} - set(ids[:1])
    if not keys:
        # Who or what it is about comes again: the first text that does.
        keys = set([name for name, kind in kinds.items() if kind == "str" and name not in different][:1])
    for name, kind in kinds.items():
        if kind is None:
            raise ConfigError(f"{source}: column {name} is {schema[name]}, which no field can hold; leave it out")
        optional = " | None" if name in nulls and name != times[0] else ""
        right = ""
        if name == times[0]:
            right = " = hr.event_time()"
        elif name in ids[:1]:
            right, optional = " = hr.id()", ""
        elif name in keys:
            entity = name.removesuffix("_id")
            entities.append((entity.capitalize(), entity))
            right = f" = hr.key({entity.capitalize()})"
            key = key or name
        lines.append(f"    {name}: hr.Field[{kind}{optional}]{right}")
    text = _HEAD + "".join(f'{label} = hr.Entity("{entity}")\n' for label, entity in entities)
    text += f'\n\nclass {cls}(hr.Event):\n    """One row of {source.name}."""\n\n' + "\n".join(lines) + "\n"
    if key is not None:
        text += f'\n\nclass By{cls}(hr.FeatureGroup, key={cls}.{key}):\n    """How often this happened lately."""\n\n'
        text += '    n = hr.count(window=["1h", "1d"])\n\n\n'
        text += f'view = hr.FeatureView("{stream}", request={cls}, features=[By{cls}])\n'
    return text, stream


def _schema_of(source: Path) -> tuple[dict[str, Any], set[str], list[str]]:
    """Types by column, the columns that hold a null, and those of texts or integers whose values all differ."""
    import pyarrow.compute as pc

    if source.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(source)
    elif source.suffix == ".csv":
        from pyarrow import csv

        table = csv.read_csv(source)
    else:
        raise ConfigError(f"{source}: events are inferred from .parquet and .csv files")
    types = {field.name: field.type for field in table.schema}
    nulls = {name for name in types if table[name].null_count}
    plain = [name for name, kind in types.items() if _annotation(kind) in ("str", "int") and name not in nulls]
    different = [name for name in plain if pc.count_distinct(table[name]).as_py() == len(table)]
    return types, nulls, different


def _annotation(kind: Any) -> str | None:
    import pyarrow as pa

    tests = (
        (pa.types.is_boolean, "bool"),
        (pa.types.is_integer, "int"),
        (pa.types.is_floating, "float"),
        (pa.types.is_string, "str"),
        (pa.types.is_large_string, "str"),
        (pa.types.is_timestamp, "datetime"),
        (pa.types.is_duration, "timedelta"),
    )
    return next((name for test, name in tests if test(kind)), None)
