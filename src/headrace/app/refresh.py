"""Which entities of a table are active, and how often their rows are refreshed: `[refresh.TABLE]` of headrace.toml.

The rows of active entities are asked for by a schedule of their own; the table's own schedule asks for all, so that
nobody is left behind who was taken for inactive. What is unchanged is written by neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace.core.errors import ConfigError, PlanError
from headrace.core.time import parse_duration

if TYPE_CHECKING:
    from pathlib import Path

    from headrace.app.settings import Settings
    from headrace.app.wiring import Parts
    from headrace.features.plan import TablePlan
    from headrace.orchestration.jobs import Where

_SEEN = "headrace_seen_"


@dataclass(frozen=True, slots=True)
class Refresh:
    """How a table is refreshed beside its schedule.

    Attributes:
        every: the schedule of the active entities: a duration, "@hourly" or "@daily".
        active: an SQL condition on the columns that the table's query returns; it may read sources of the project.
        seen_in: instead of that: STREAM.FIELD, where an active entity's key was seen within the last `within_us`.
        within_us: see `seen_in`.
    """

    every: str
    active: str = ""
    seen_in: str = ""
    within_us: int = 0


def refreshes(given: Mapping[str, Any], file: str) -> dict[str, Refresh]:
    """Read the tables of `[refresh]`; raises ConfigError naming the table and the key."""
    from headrace.orchestration.schedule import period_of

    found = {}
    for name, told in given.items():
        where = f"[refresh.{name}] of {file}"
        if not isinstance(told, Mapping) or not set(told) <= {"every", "active", "seen_in", "within"}:
            raise ConfigError(f"{where}: it takes every, and active or seen_in and within; not {told!r}")
        every, active, seen_in, within = (str(told.get(key, "")) for key in ("every", "active", "seen_in", "within"))
        if not every or bool(active) == bool(seen_in) or bool(seen_in) != bool(within):
            raise ConfigError(
                f'{where}: write every = "1h" and either active = "SQL condition" or seen_in = "stream.field" and '
                'within = "7d"'
            )
        try:
            period_of(every)
            within_us = parse_duration(within) if within else 0
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"{where}: {error}") from None
        found[name] = Refresh(every, active, seen_in, within_us)
    return found


def active_part(parts: Parts, table: TablePlan, refresh: Refresh) -> Where:
    """The condition of the active entities of a table, made anew for each run.

    Raises PlanError if the table has no query, or there is no such stream, field or single key.
    """
    if table.query is None:
        raise PlanError(f"[refresh.{table.name}]: table {table.name} has no query, so nothing refreshes it")
    if not refresh.seen_in:
        return lambda now_us: refresh.active
    stream, _, field = refresh.seen_in.partition(".")
    plan = parts.plan.streams.get(stream)
    if plan is None or field not in plan.schema or len(table.key) != 1:
        raise PlanError(
            f'[refresh.{table.name}]: seen_in = "{refresh.seen_in}" names no field of a stream, or table {table.name} '
            "has not one key; give an SQL condition as active"
        )
    key = table.key[0]

    def seen(now_us: int) -> str:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        file = _file(parts.settings, table.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        keys = pc.unique(parts.past.events(stream, [field], since_us=now_us - refresh.within_us)[field])
        pq.write_table(pa.table({"key": keys}), file)
        return f'"{key.name}" IN (SELECT key FROM {_SEEN}{table.name})'

    return seen


def seen_sources(settings: Settings) -> dict[str, str]:
    """The sources that hold the active keys of tables: files that a run of the active part writes before it reads."""
    return {_SEEN + name: str(_file(settings, name)) for name, refresh in settings.refresh.items() if refresh.seen_in}


def _file(settings: Settings, table: str) -> Path:
    return settings.state / "active" / f"{table}.parquet"
