"""Named, versioned data sets: rows of history, kept as they were read, with all that it takes to read them again.

A data set is a Parquet file under the state folder and a record in the catalog. The record names the query, the seed,
the sampling, the versions of view and features, and the positions of the logs that the rows were read at.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from headrace.app.history import LABEL, HistoryRows, PastAt, model_rows, view_rows
from headrace.app.locks import FolderLock
from headrace.app.times import Time, given_us
from headrace.core.arrow import from_arrow
from headrace.core.columns import BoolArray, Column
from headrace.core.errors import ConfigError, NotFound, SchemaError, StoreError, TrainingError
from headrace.core.schema import DType
from headrace.core.time import parse_duration, to_iso
from headrace.features.plan import ModelPlan, ProjectPlan, ViewPlan
from headrace.features.version import digest, node_content
from headrace.training.split import split_by_share, split_by_time

if TYPE_CHECKING:
    from headrace.app.wiring import Parts

WEIGHT = "weight"
_RECORDS = "datasets"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


class DatasetQuery(msgspec.Struct, frozen=True):
    """What a data set holds: the rows of a model (labelled) or of a view, requests in [since, until).

    `label` is a hash of what a model's truth is ("" of a view). `negatives` is how many rows with a false label are
    kept per row with a true one (None: all), drawn by `seed`.
    """

    what: str
    view: str
    view_version: str
    feature_versions: dict[str, str]
    since_us: int | None
    until_us: int
    negatives: float | None
    seed: int
    label: str = ""


class DatasetInfo(msgspec.Struct, frozen=True):
    """A version of a data set.

    Attributes:
        snapshot: short name of the positions that it was read at; equal names are equal positions.
        as_of: per raw stream, the first offset that was not known in each partition; `tables` that of table rows.
        now_us: when it was read: rows whose wait was not over then are not in it.
        rows, positives: how many there are, and with a true label; `waiting` and `unlabelled` were left out.
        columns, types: their names and logical types, in order.
        sha256: of the file.
    """

    name: str
    version: int
    query: DatasetQuery
    snapshot: str
    as_of: dict[str, list[int]]
    tables: int
    now_us: int
    rows: int
    positives: int
    waiting: int
    unlabelled: int
    columns: list[str]
    types: list[str]
    sha256: str

    def __str__(self) -> str:
        query = self.query
        since = "the beginning" if query.since_us is None else to_iso(query.since_us)
        sampled = "" if query.negatives is None else f", {query.negatives:g} negatives each (seed {query.seed})"
        return "\n".join(
            [
                f"{self.name} version {self.version}: {self.rows:,} rows x {len(self.columns)} columns of {query.what}",
                f"  requests from {since} until {to_iso(query.until_us)}, {self.positives:,} positive{sampled}",
                f"  read {to_iso(self.now_us)} at data snapshot {self.snapshot}",
                f"  {self.waiting:,} rows waited for their truth, {self.unlabelled:,} had none",
                f"  view {query.view} {query.view_version}; sha256 {self.sha256[:16]}",
            ]
        )


@dataclass(frozen=True, slots=True)
class DatasetSplit:
    """Parts that do not overlap, each later than the one before it; `left_out` rows lie in an embargo."""

    train: HistoryRows
    validation: HistoryRows
    test: HistoryRows
    validation_from_us: int
    test_from_us: int | None
    embargo_us: int
    left_out: int


class Dataset:
    """A version of a data set, read from its file when its rows are asked for."""

    def __init__(self, info: DatasetInfo, file: Path, time_field: str, embargo_us: int) -> None:
        self.info = info
        self.file = file
        self._time_field = time_field
        self._embargo_us = embargo_us

    @cached_property
    def rows(self) -> HistoryRows:
        """All rows, in order of their request's time. Raises StoreError if the file is not what was stored."""
        data = self.file.read_bytes() if self.file.exists() else b""
        if hashlib.sha256(data).hexdigest() != self.info.sha256:
            raise StoreError(
                f"{self.file} is {'not what was stored' if data else 'gone'}; delete version {self.info.version} of "
                f"data set {self.info.name} and make it again"
            )
        import pyarrow.parquet as pq

        table = pq.read_table(pa.BufferReader(data))
        types = dict(zip(self.columns, map(DType, self.info.types), strict=True))
        columns = {name: from_arrow(table[name], dtype, name) for name, dtype in types.items()}
        return HistoryRows(
            columns, as_of=self.info.as_of, tables=self.info.tables, waiting=self.info.waiting,
            unlabelled=self.info.unlabelled,
        )  # fmt: skip

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.info.columns

    def __len__(self) -> int:
        return self.info.rows

    def split(
        self,
        *,
        validation: float | Time = 0.15,
        test: float | Time | None = 0.15,
        embargo: str | None = None,
    ) -> DatasetSplit:
        """Cut by request time: `validation` and `test` are shares of the rows, as 0.15, or the times where they begin.

        Rows less than `embargo` before a cut are in no part: their truth, or the windows they share with later rows,
        reach over it. None is the wait of the model's label, "0s" none. Raises ConfigError for parts out of order.
        """
        t = np.asarray(self.rows.columns[self._time_field].values)
        gap = self._embargo_us if embargo is None else parse_duration(embargo)
        try:
            if isinstance(validation, float) and isinstance(test, float):
                cut = split_by_share(t, validation=validation, test=test, embargo_us=gap)
            elif isinstance(validation, float) or isinstance(test, float):
                raise ValueError("give shares such as 0.15 for both parts, or times")
            else:
                begin, end = given_us(validation, "validation"), given_us(test, "test")
                assert begin is not None
                cut = split_by_time(t, validation_from_us=begin, test_from_us=end, embargo_us=gap)
        except ValueError as error:
            raise ConfigError(f"data set {self.info.name}: {error}") from None
        train, later, last = (self._part(mask) for mask in (cut.train, cut.validation, cut.test))
        test_from_us = None if cut.test_from_us == np.iinfo(np.int64).max else cut.test_from_us
        left_out = len(t) - len(train) - len(later) - len(last)
        return DatasetSplit(train, later, last, cut.validation_from_us, test_from_us, gap, left_out)

    def _part(self, mask: BoolArray) -> HistoryRows:
        columns = {name: column.take(mask) for name, column in self.rows.columns.items()}
        return HistoryRows(columns, as_of=self.info.as_of, tables=self.info.tables)

    def __repr__(self) -> str:
        return f"Dataset({self.info.name!r}, version={self.info.version}, rows={self.info.rows})"


class Datasets:
    """The data sets of a project."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._folder = parts.settings.state / "datasets"

    def make(
        self,
        name: str,
        what: ModelPlan | ViewPlan,
        *,
        since_us: int | None,
        until_us: int,
        negatives: float | None,
        seed: int,
        refresh: bool,
    ) -> Dataset:
        """The version of this very query, or a new one; `refresh` reads anew what is known now.

        Raises ConfigError for a name or sampling that cannot be, TrainingError if there is nothing to sample from.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f'"{name}" is no name of a data set: write small letters, digits, "_", "-" and "."')
        if negatives is not None and negatives <= 0:
            raise ConfigError(f"negatives={negatives} keeps no row with a false label; give a number above 0")
        query = self._query(what, since_us, until_us, negatives, seed)
        with FolderLock(self._parts.settings.state, "datasets"):
            found = [info for info in self.versions(name) if info.query == query]
            if found and not refresh:
                return self._open(found[-1])
            rows, now_us = self._read(what, query, None)
            return self._open(self._store(name, query, rows, now_us))

    def get(self, name: str, version: int | None = None) -> Dataset:
        """A version, the newest if none is named; NotFound names what there is."""
        found = self.versions(name)
        for info in reversed(found):
            if version is None or info.version == version:
                return self._open(info)
        if found:
            there = ", ".join(str(info.version) for info in found)
            raise NotFound(f'data set "{name}" has no version {version}; it has {there}')
        names = sorted({info.name for info in self.all()})
        near = difflib.get_close_matches(name, names, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names) or 'none'}"
        raise NotFound(f'there is no data set "{name}"; {hint}')

    def all(self) -> list[DatasetInfo]:
        """All versions of all data sets, by name and version."""
        return [info for name in sorted(self._records()) for info in self.versions(name)]

    def versions(self, name: str) -> list[DatasetInfo]:
        """All versions of one data set, the oldest first; empty for an unknown name."""
        kept = self._records().get(name, {"versions": []})["versions"]
        return [msgspec.convert(record, DatasetInfo) for record in kept]

    def delete(self, name: str, version: int | None = None) -> list[DatasetInfo]:
        """Delete one version, or all; returns what was deleted. Numbers are never given again."""
        with FolderLock(self._parts.settings.state, "datasets"):
            self.get(name, version)
            gone = [info for info in self.versions(name) if version in (None, info.version)]
            records = self._records()
            left = [info for info in self.versions(name) if info not in gone]
            records[name]["versions"] = msgspec.to_builtins(left)
            self._parts.catalog.set_setting(_RECORDS, records)
            for info in gone:
                self._file(info).unlink(missing_ok=True)
        return gone

    def without(
        self, is_gone: Callable[[DatasetInfo, pa.Table], BoolArray], *, dry_run: bool = False
    ) -> dict[str, int]:
        """Take rows out of all files; returns how many, by "name/version". The records go on with the new SHA-256."""
        import pyarrow.parquet as pq

        found: dict[str, int] = {}
        with FolderLock(self._parts.settings.state, "datasets"):
            for info in self.all():
                file = self._file(info)
                if not file.exists():
                    continue
                table = pq.read_table(pa.BufferReader(file.read_bytes()))
                gone = is_gone(info, table)
                if not gone.any():
                    continue
                found[f"{info.name}/{info.version}"] = int(gone.sum())
                if dry_run:
                    continue
                left = table.filter(pa.array(~gone))
                data = _bytes_of(left)
                positives = int(np.asarray(left[LABEL].fill_null(False)).sum()) if LABEL in left.column_names else 0
                new = msgspec.structs.replace(
                    info, rows=left.num_rows, positives=positives, sha256=hashlib.sha256(data).hexdigest()
                )
                beside = file.with_suffix(".new")
                beside.write_bytes(data)
                beside.replace(file)
                records = self._records()
                kept = [new if old == info else old for old in self.versions(info.name)]
                records[info.name]["versions"] = msgspec.to_builtins(kept)
                self._parts.catalog.set_setting(_RECORDS, records)
        return found

    def verify(self, dataset: Dataset) -> bool:
        """Read the rows again at the positions that they were read at; True if the file would be the same in every bit.

        Raises SchemaError if the definitions are no longer those that it was read with.
        """
        info = dataset.info
        what = self._what(info.query)
        changed = difference(info.query, self.query_now(what, info.query))
        if changed:
            raise SchemaError(
                f"data set {info.name} version {info.version} cannot be read again: {changed}; check the project out "
                "as it was then"
            )
        rows = self._read(what, info.query, info)[0]
        return hashlib.sha256(_parquet(rows)).hexdigest() == info.sha256

    def query_now(self, what: ModelPlan | ViewPlan, query: DatasetQuery) -> DatasetQuery:
        """The same query with the definitions of today."""
        return self._query(what, query.since_us, query.until_us, query.negatives, query.seed)

    def _query(
        self, what: ModelPlan | ViewPlan, since_us: int | None, until_us: int, negatives: float | None, seed: int
    ) -> DatasetQuery:
        plan = self._parts.plan
        view = plan.views[what.view] if isinstance(what, ModelPlan) else what
        if negatives is not None and (not isinstance(what, ModelPlan) or what.label.dtype is not DType.BOOL):
            raise ConfigError(f"negatives are drawn by a label that is true or false; {what.name} has none")
        versions = {
            b.source: plan.tables[b.source].version if b.is_table else plan.groups[b.source].version
            for b in view.bindings
        }
        return DatasetQuery(
            what.name, view.name, view.version, versions, since_us, until_us, negatives,
            seed if negatives is not None else 0, label_version(plan, what) if isinstance(what, ModelPlan) else "",
        )  # fmt: skip

    def _what(self, query: DatasetQuery) -> ModelPlan | ViewPlan:
        plan = self._parts.plan
        found = plan.models.get(query.what) or plan.views.get(query.what)
        if found is None:
            raise NotFound(f"model or view {query.what} is no longer defined")
        return found

    def _read(
        self, what: ModelPlan | ViewPlan, query: DatasetQuery, again: DatasetInfo | None
    ) -> tuple[HistoryRows, int]:
        """Rows, and the time at which they were read; `again` reads at a former one and at former positions."""
        parts = self._parts
        if again is None:
            as_of: Mapping[str, list[int]] = parts.past.computed()
            tables, now_us = parts.past.known_table_rows(), parts.clock.now_us()
        else:
            as_of, tables, now_us = again.as_of, again.tables, again.now_us
        past = PastAt(parts, as_of, tables)
        if isinstance(what, ModelPlan):
            rows = model_rows(parts.plan, what, past, query.since_us, query.until_us, now_us)
        else:
            rows = view_rows(parts.plan, what, past, query.since_us, query.until_us)
        if query.negatives is not None:
            rows = _sampled(rows, query.negatives, query.seed, query.what)
        return rows, now_us

    def _store(self, name: str, query: DatasetQuery, rows: HistoryRows, now_us: int) -> DatasetInfo:
        data = _parquet(rows)
        records = self._records()
        record = records.setdefault(name, {"last": 0, "versions": []})
        label = rows.columns.get(LABEL)
        info = DatasetInfo(
            name, record["last"] + 1, query, rows.snapshot, rows.as_of, rows.tables, now_us, len(rows),
            0 if label is None else int((label.values != 0).sum()), rows.waiting, rows.unlabelled,
            list(rows.columns), [column.dtype.value for column in rows.columns.values()],
            hashlib.sha256(data).hexdigest(),
        )  # fmt: skip
        file = self._file(info)
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".new")
        beside.write_bytes(data)
        beside.replace(file)
        record["last"] = info.version
        record["versions"].append(msgspec.to_builtins(info))
        self._parts.catalog.set_setting(_RECORDS, records)
        return info

    def _records(self) -> dict[str, Any]:
        return dict(self._parts.catalog.setting(_RECORDS, {}))

    def _file(self, info: DatasetInfo) -> Path:
        return self._folder / info.name / f"{info.version}.parquet"

    def _open(self, info: DatasetInfo) -> Dataset:
        plan = self._parts.plan
        model, view = plan.models.get(info.query.what), plan.views.get(info.query.view)
        time = "" if view is None else view.request.time_field or ""
        return Dataset(info, self._file(info), time, 0 if model is None else model.label.wait_us)


def _sampled(rows: HistoryRows, negatives: float, seed: int, what: str) -> HistoryRows:
    """All rows with a true label and `negatives` times as many others, with the weight that makes up for those left."""
    truth = np.asarray(rows.columns[LABEL].values, np.bool_)
    others = np.flatnonzero(~truth)
    wanted = round(negatives * int(truth.sum()))
    if not truth.any():
        raise TrainingError(f"none of the {len(truth)} rows of {what} has a true label, so no negatives go with them")
    kept = np.sort(np.random.default_rng(seed).permutation(len(others))[:wanted])
    mask = truth.copy()
    mask[others[kept]] = True
    weight = np.where(truth, 1.0, len(others) / max(len(kept), 1))[mask]
    columns = {name: column.take(mask) for name, column in rows.columns.items()} | {WEIGHT: Column(DType.FLOAT, weight)}
    return HistoryRows(
        columns, as_of=rows.as_of, tables=rows.tables, waiting=rows.waiting, unlabelled=rows.unlabelled
    )  # fmt: skip


def difference(then: DatasetQuery, now: DatasetQuery) -> str:
    """What has changed in the definitions since a data set was read; "" if nothing has."""
    if then.view_version != now.view_version or then.feature_versions != now.feature_versions:
        before, after = then.feature_versions, now.feature_versions
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        what = f" ({', '.join(changed)} changed)" if changed else ""
        return f"it was read with view {then.view} {then.view_version}, and the project has {now.view_version}{what}"
    return f"the label of model {then.what} has changed" if then.label != now.label else ""


def label_version(plan: ProjectPlan, model: ModelPlan) -> str:
    """A hash of what a model's truth is: equal ones give every request the same label."""
    label = model.label
    names = plan.stream(label.stream).schema.first_names
    return digest(
        [
            label.stream,
            names.get(label.join_field, label.join_field),
            node_content(label.node, names),
            node_content(label.where, names),
            [label.wait_us, label.has_default, label.default],
        ]
    )


def _parquet(rows: HistoryRows) -> bytes:
    """The file: the same rows give the same bytes, under one version of Arrow."""
    return _bytes_of(rows.to_arrow())


def _bytes_of(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
