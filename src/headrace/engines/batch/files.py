"""Files behind the sources of queries, as Arrow: the only place where a batch run reads a file.

Queries see tables, never files, so that they read what a project declares and nothing else.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from headrace.core.addresses import shown
from headrace.core.errors import NotFound, StoreError
from headrace.engines.batch.sources import Source, files_of, reader_of
from headrace.stores.objects import failure, object_files

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

KEEP_BYTES: Final = 64 << 20
"""Files up to this size are kept in memory; a source with known times is kept whatever its size."""
_NO_VALUE: Final = "__HIVE_DEFAULT_PARTITION__"
_DELTA: Final = "_delta_log"
_WHOLE: Final = re.compile(r"-?\d{1,18}")
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")

Stamp = tuple[tuple[str, int, int], ...]
"""Name, time of change and size of each file: what differs when a source has changed."""


class SourceFiles:
    """Reads the files of sources: Parquet anywhere, CSV and JSON on this machine.

    Folders may be partitioned as Hive does it (`region=eu/day=2026-01-01/...`): the keys are columns, int64 if all
    values are whole numbers, dates if all are, else text.
    """

    def __init__(self, objects: Mapping[str, str] | None) -> None:
        self._objects = objects
        self._reader: DuckDBPyConnection | None = None
        self._converted: tempfile.TemporaryDirectory[str] | None = None

    def stamp(self, source: Source) -> Stamp:
        """What is there; raises NotFound if it is no data, StoreError if it cannot be reached."""
        if source.is_objects:
            return tuple((info.path, info.mtime_ns or 0, info.size) for info in self._listed(source)[2])
        assert source.path is not None
        stats = [(path, path.stat()) for path in files_of(source.path)]
        return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats)

    def read(self, source: Source) -> pa.Table | ds.Dataset:
        """The rows: a table if the files are small, else what is read as far as a query needs it.

        Raises StoreError, naming the place, if they cannot be read.
        """
        if source.is_objects:
            root, files, found = self._listed(source)
            paths, place = [info.path for info in found], shown(str(source.data))
        else:
            assert source.path is not None
            local = files_of(source.path)
            root = str(source.path if source.path.is_dir() else source.path.parent)
            paths, files, place = [str(path) for path in local], LocalFileSystem(), str(source.path)
            if reader_of(local[0]) != "read_parquet":
                return self._text(local, place)
        size = sum(size for _, _, size in self.stamp(source))
        try:
            dataset = _parquet(files, root, paths, place)
            return dataset if size > KEEP_BYTES else dataset.to_table()
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise StoreError(f"source {place} cannot be read: {error}") from None
        except OSError as error:
            raise failure(f"source {place} cannot be read", error) from None

    def close(self) -> None:
        """Drop what was made to read them."""
        if self._reader is not None:
            self._reader.close()
        if self._converted is not None:
            self._converted.cleanup()

    def _text(self, files: Sequence[Path], place: str) -> pa.Table | ds.Dataset:
        """CSV or JSON; a large one is kept as Parquet meanwhile."""
        if self._reader is None:
            self._reader = duckdb.connect(config={"autoinstall_known_extensions": False, "threads": 1})
            self._reader.execute("SET TimeZone = 'UTC'")
        listed = ", ".join(_literal(str(path)) for path in files)
        query = f"SELECT * FROM {reader_of(files[0])}([{listed}], union_by_name = true)"
        try:
            if sum(path.stat().st_size for path in files) <= KEEP_BYTES:
                return self._reader.sql(query).to_arrow_table()
            if self._converted is None:
                self._converted = tempfile.TemporaryDirectory(prefix="headrace-sources-")
            kept = Path(self._converted.name) / f"{len(list(Path(self._converted.name).iterdir()))}.parquet"
            self._reader.execute(f"COPY ({query}) TO {_literal(str(kept))} (FORMAT parquet)")
        except duckdb.Error as error:
            raise StoreError(f"source {place} cannot be read: {error}") from None
        return ds.dataset(str(kept), format="parquet")

    def _listed(self, source: Source) -> tuple[str, FileSystem, list[Any]]:
        """The Parquet files of an object store's prefix, or the one file."""
        uri = str(source.data).rstrip("/")
        one = uri.endswith(".parquet")
        root, _, name = uri.rpartition("/") if one else (uri, "", "")
        try:
            files = object_files(root, self._objects)
            found = files.get_file_info([name] if one else FileSelector("", allow_not_found=True, recursive=True))
        except OSError as error:
            raise failure(f"source {shown(uri)} cannot be read", error) from None
        kept = sorted(
            (i for i in found if i.type == FileType.File and i.path.endswith(".parquet")), key=lambda i: i.path
        )
        if not kept:
            raise NotFound(f"{shown(uri)}: there are no Parquet files; object storage is read as Parquet only")
        if any(_DELTA in PurePosixPath(info.path).parts for info in found):
            _refuse_delta(shown(uri))
        return "", files, kept


def _parquet(files: FileSystem, root: str, paths: Sequence[str], place: str) -> ds.Dataset:
    if isinstance(files, LocalFileSystem) and (Path(root) / _DELTA).is_dir():
        _refuse_delta(place)
    partitioning = _partitioning([path.removeprefix(root).lstrip("/") for path in paths], place)
    options = ds.FileSystemFactoryOptions(partition_base_dir=root, partitioning=partitioning)
    factory = ds.FileSystemDatasetFactory(files, list(paths), ds.ParquetFileFormat(), options)
    return factory.finish(factory.inspect(promote_options="permissive", fragments=None))


def _partitioning(relative: Sequence[str], place: str) -> ds.Partitioning | None:
    """How the folders below a source name values, if they do."""
    values: dict[str, list[str]] = {}
    keys = None
    for path in relative:
        pairs = [part.split("=", 1) for part in PurePosixPath(path).parts[:-1] if "=" in part]
        if keys not in (None, [key for key, _ in pairs]):
            raise StoreError(f"source {place}: its folders are not partitioned alike, see {path}")
        keys = [key for key, _ in pairs]
        for key, value in pairs:
            values.setdefault(key, []).append(unquote(value))
    if not values:
        return None
    schema = pa.schema([(key, _type_of([v for v in found if v != _NO_VALUE])) for key, found in values.items()])
    return ds.HivePartitioning(schema, null_fallback=_NO_VALUE, segment_encoding="uri")


def _type_of(values: Sequence[str]) -> pa.DataType:
    if values and all(_WHOLE.fullmatch(value) for value in values):
        return pa.int64()
    return pa.date32() if values and all(map(_is_day, values)) else pa.string()


def _is_day(value: str) -> bool:
    try:
        return _DAY.fullmatch(value) is not None and date.fromisoformat(value) is not None
    except ValueError:
        return False


def _refuse_delta(place: str) -> None:
    raise StoreError(f"source {place} is a Delta table: its folder also holds rows that were deleted; export it")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
