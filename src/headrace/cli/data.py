"""Commands that bring data in and read it out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.common import REFUSED, Session, Told, command, progress, working
from headrace.cli.values import read_fields
from headrace.core.errors import NotFound, SchemaError

if TYPE_CHECKING:
    from headrace.app.project import Project
    from headrace.ingestion.publisher import PublishReceipt

_BLOCK = 20_000


def register(group: click.Group) -> None:
    """Add the commands of this module."""

    @command(
        group,
        "publish",
        "headrace publish transfer transfers.parquet\ncat events.ndjson | headrace publish transfer -",
    )
    @click.argument("stream")
    @click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
    def publish(session: Session, stream: str, file: str) -> None:
        """Append the events of FILE (Parquet, CSV, NDJSON, JSON, Arrow; - is NDJSON from stdin) to STREAM.

        What does not fit its declaration becomes a dead letter with field and reason; the rest goes on.
        """
        project = session.open()
        project.ensure_applied()
        with progress(f"publishing to {stream}") as shown:

            def told(receipt: PublishReceipt) -> None:
                shown.update(receipt.appended, None, f"{receipt.appended:,} events")

            if file == "-":
                receipt = _publish_stdin(project, stream, told)
            else:
                receipt = project.publisher.publish_file(stream, file, told)
        with working("computing features"):
            project.settle(wait=False)
        letters = f"{receipt.malformed:,} dead letters" if receipt.malformed != 1 else "1 dead letter"
        hint = " (see headrace dead list)" if receipt.malformed else ""
        session.say(
            f"{receipt.appended:,} appended, {letters}{hint}",
            stream=stream, appended=receipt.appended, dead_letters=receipt.malformed, offsets=receipt.offsets,
        )  # fmt: skip

    @command(group, "put", "headrace put profile profiles.parquet")
    @click.argument("table")
    @click.argument("file", type=click.Path(exists=True, dir_okay=False))
    def put(session: Session, table: str, file: str) -> None:
        """Write the rows of FILE into TABLE, each replacing the former one of its key.

        If one row does not fit, nothing is written.
        """
        project = session.open()
        rows = _table_rows(project, table, file)
        with working(f"writing {table}"):
            report = project.put(table, rows)
        session.say(f"{report.appended:,} rows written to {table}", table=table, appended=report.appended)

    @command(group, "get", "headrace get spend sender=u1\nheadrace get profile user=u1 --at 2026-06-01T12:00:00Z")
    @click.argument("source")
    @click.argument("key", nargs=-1, metavar="FIELD=VALUE...")
    @click.option("--at", metavar="TIME", help="As it counted at this time.")
    def get(session: Session, source: str, key: tuple[str, ...], at: str | None) -> int:
        """Show the row of one key of a group or table."""
        project = session.open()
        plan = project.definition_plan
        found = plan.tables.get(source) or plan.groups.get(source)
        if found is None:
            raise NotFound(
                f'there is no group or table "{source}"; there are: {", ".join([*plan.groups, *plan.tables])}'
            )
        from headrace.core.schema import Field

        values = read_fields([Field(part.name, part.dtype) for part in found.key], key)
        row = project.get(source, at=at, **values)
        if row is None:
            session.say("no row", found=False, row=None)
            return 1
        shown = _flat(row.__dict__, plan.groups[source].order) if source in plan.groups else dict(row.__dict__)
        session.say(_table(shown), found=True, row=shown)
        return 0

    @command(group, "online", "headrace online flight flight_id=x carrier=UA origin=EWR dest=IAH ...")
    @click.argument("view")
    @click.argument("request", nargs=-1, metavar="FIELD=VALUE...")
    def online(session: Session, view: str, request: tuple[str, ...]) -> None:
        """Show the features of a view for one request, as a model would see them now."""
        project = session.open()
        if view not in project.definition_plan.views:
            raise NotFound(f'there is no view "{view}"; there are: {", ".join(project.definition_plan.views)}')
        fields = project.definition_plan.views[view].request.fields
        row = project.online(view, read_fields(fields, request))
        age = "no event yet" if row.age is None else f"newest event {row.age} before the request"
        session.say(
            f"{_table(row.to_dict())}\n{age}", row=row.to_dict(), position=row.position, age_s=row.age
        )  # fmt: skip

    @command(
        group,
        "history",
        "headrace history fraud --until 2026-06-01 -o train.parquet\nheadrace history flight --since 2013-02-01 --json",
    )
    @click.argument("what")
    @click.option("--since", metavar="TIME", help="Requests from this time on.")
    @click.option("--until", metavar="TIME", help="Requests before this time (now).")
    @click.option("--as-of", "as_of", metavar="TIME", help="Only what had arrived by this time.")
    @click.option("--served", is_flag=True, help="What a model was asked, saw and answered.")
    @click.option(
        "--rows", "spine", type=click.Path(exists=True, dir_okay=False), help="Read at the rows of this file."
    )
    @click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write to a .parquet or .csv file.")
    def history(session: Session, what: str, spine: str | None, output: str | None, **times: Any) -> None:
        """Rows of the past: the training set of a model, a view at its requests, or a group at the rows of a file.

        Every feature is as it was known at the row's own time.
        """
        project = session.open()
        given = None if spine is None else _read_table(spine)
        with working(f"reading history of {what}"):
            rows = project.history(what, given, **times)
        facts: dict[str, Any] = {"rows": len(rows), "columns": len(rows.columns), "as_of": rows.as_of}
        lines = [f"{len(rows):,} rows x {len(rows.columns)} columns"]
        if "label" in rows.columns and len(rows):
            known = [value for value in rows["label"] if value is not None]
            if known:
                facts["label_mean"] = sum(known) / len(known)
                lines.append(f"label: {facts['label_mean']:.4f} on average, known for {len(known):,}")
            facts |= {"waiting": rows.waiting, "unlabelled": rows.unlabelled}
            lines.append(f"{rows.waiting:,} rows wait for their truth, {rows.unlabelled:,} have none")
        facts["snapshot"] = rows.snapshot
        lines.append(f"data snapshot {facts['snapshot']}")
        if output is not None:
            write_table(rows.to_arrow(), Path(output))
            facts["file"] = output
            lines.append(f"wrote {output}")
        session.say("\n".join(lines), **facts)

    @command(
        group,
        "snapshot",
        "headrace snapshot flight --at 2013-06-01 -o june.parquet\nheadrace snapshot spend --since 2026-05-01",
    )
    @click.argument("what")
    @click.option("--at", metavar="TIME", help="As it was known at this time (now).")
    @click.option("--since", metavar="TIME", help="Only what occurs from this time on.")
    @click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write to a .parquet or .csv file.")
    def snapshot(session: Session, what: str, at: str | None, since: str | None, output: str | None) -> None:
        """The row of every entity of a view, model, group or table at one time, for batch scoring.

        Of a view: of each combination of keys that was asked about before that time.
        """
        project = session.open()
        with working(f"reading a snapshot of {what}"):
            rows = project.snapshot(what, at, since=since)
        facts: dict[str, Any] = {"rows": len(rows), "columns": len(rows.columns), "snapshot": rows.snapshot}
        lines = [f"{len(rows):,} rows x {len(rows.columns)} columns", f"data snapshot {facts['snapshot']}"]
        if output is not None:
            write_table(rows.to_arrow(), Path(output))
            facts["file"] = output
            lines.append(f"wrote {output}")
        session.say("\n".join(lines), **facts)

    @command(group, "replay", "headrace replay fraud --since 2026-01-01 --until 2026-06-30")
    @click.argument("model")
    @click.option("--since", metavar="TIME", help="Score requests from this time on; train on what lies before.")
    @click.option("--until", metavar="TIME", help="Stop at this time.")
    def replay(session: Session, model: str, since: str | None, until: str | None) -> int:
        """Run archived history through the live pipeline on a simulated clock, in a scratch copy of the project.

        Shows what the loop would have done. Exits with 1 if a served value differs when it is recomputed.
        """
        project = session.open()
        with progress(f"replaying {model}") as shown:

            def told(now: Any) -> None:
                from headrace.core.time import to_iso

                shown.update(now.events, None, f"{to_iso(now.now_us)[:10]} {now.events:,} events")

            result = project.replay(model, since=since, until=until, progress=told)
        session.say(str(result), **result.to_dict())
        return REFUSED if result.values_differing else 0


def _publish_stdin(project: Project, stream: str, told: Any) -> PublishReceipt:
    from headrace.ingestion.publisher import PublishReceipt

    total = PublishReceipt(stream, 0, 0)
    lines: list[bytes] = []
    for line in sys.stdin.buffer:
        if line.strip():
            lines.append(line)
        if len(lines) >= _BLOCK:
            total = total + project.publisher.publish(stream, b"".join(lines))
            told(total)
            lines = []
    if lines:
        total = total + project.publisher.publish(stream, b"".join(lines))
    if not total.appended:
        raise Told(f"nothing came on stdin for {stream}")
    return total


def _table_rows(project: Project, table: str, file: str) -> Any:
    import pyarrow as pa

    from headrace.core.arrow import to_arrow
    from headrace.ingestion.publisher import read_event_file

    plan = project.definition_plan.tables.get(table)
    if plan is None:
        raise NotFound(f'there is no table "{table}"; there are: {", ".join(project.definition_plan.tables) or "none"}')
    pieces = []
    first = 0
    for block in read_event_file(file, plan.schema):
        for bad in block.malformed:
            raise SchemaError(f"{file} row {first + bad.row}: {bad.field}: {bad.reason}; nothing was written")
        pieces.append(pa.table({name: to_arrow(column) for name, column in block.columns.items()}))
        first += block.n
    return pa.concat_tables(pieces)


def _read_table(file: str) -> Any:
    """An Arrow table of a Parquet or CSV file."""
    if file.endswith(".parquet"):
        import pyarrow.parquet as pq

        return pq.read_table(file)
    if file.endswith(".csv"):
        from pyarrow import csv

        return csv.read_csv(file)
    raise click.UsageError(f"{file}: rows are read from .parquet and .csv files")


def write_table(table: Any, path: Path) -> None:
    """Write to a Parquet or CSV file; a usage error for any other."""
    if path.suffix == ".csv":
        from pyarrow import csv

        csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, path)
    else:
        raise click.UsageError(f"{path}: rows are written to .parquet and .csv files")


def _flat(values: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The features of these names, a family's one by one; a map is a value like another."""
    flat: dict[str, Any] = {}
    for name in names:
        family, _, window = name.rpartition("_")
        flat[name] = values[name] if name in values else values[family][window]
    return flat


def _table(values: dict[str, Any]) -> str:
    width = max(map(len, values), default=0)
    return "\n".join(f"{name:<{width}}  {'null' if value is None else value}" for name, value in values.items())
