"""A query on PostgreSQL as an Arrow table of the types that the database declares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from headrace.core.errors import ConfigError, PlanError, StoreError, Unreachable

if TYPE_CHECKING:
    import psycopg

_ROWS: Final = 50_000
_CONNECT_S: Final = 10
_TYPES: Final = {
    "bool": pa.bool_(),
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "oid": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "text": pa.string(),
    "varchar": pa.string(),
    "bpchar": pa.string(),
    "name": pa.string(),
    "uuid": pa.string(),
    "json": pa.string(),
    "jsonb": pa.string(),
    "bytea": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
}
"""Arrow's type of each of PostgreSQL's that is read; numeric depends on its digits, arrays on their elements."""
_AS_TEXT: Final = ("uuid", "json", "jsonb")
_DIGITS: Final = 38
# SQLSTATE classes of a server that cannot just now: connection lost, out of resources, stopped, restarting.
_PASSING: Final = ("08", "53", "57P")


def query_postgres(what: str, url: str, query: str) -> pa.Table:
    """The rows of one SELECT, read in a transaction that cannot write; times are UTC.

    Raises Unreachable if the server does not answer, StoreError if it refuses the connection, PlanError if it refuses
    the query or the query gives a column of a type that has no place here.
    """
    try:
        import psycopg
    except ModuleNotFoundError as error:
        raise ConfigError(f'a source on PostgreSQL needs {error.name}: pip install "headrace[postgres]"') from None
    try:
        connection = psycopg.connect(
            url.replace("postgresql+psycopg://", "postgresql://", 1),
            connect_timeout=_CONNECT_S,
            application_name="headrace batch",
        )
    except psycopg.Error as error:
        kind = StoreError if "FATAL" in str(error) or isinstance(error, psycopg.ProgrammingError) else Unreachable
        # What cannot be parsed may be a part of the password.
        told = "its address is no URL of PostgreSQL" if isinstance(error, psycopg.ProgrammingError) else _line(error)
        raise kind(f"the database of {what} cannot be reached: {told}") from None
    with connection:
        try:
            return _read(connection, what, query)
        except psycopg.Error as error:
            if connection.closed or str(error.sqlstate).startswith(_PASSING):
                raise Unreachable(f"the database of {what} went away: {_line(error)}") from None
            raise PlanError(f"the query of {what} failed: {_line(error)}") from None
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise PlanError(f"the query of {what} gives what has no place here: {error}; cast it") from None


def _read(connection: psycopg.Connection[Any], what: str, query: str) -> pa.Table:
    import psycopg
    from psycopg.types.string import TextLoader

    for name in _AS_TEXT:
        connection.adapters.register_loader(name, TextLoader)
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.execute("SET LOCAL TIME ZONE 'UTC'")
    connection.execute("SET LOCAL intervalstyle = 'postgres'")
    # A cursor of the server takes one SELECT and nothing else, and hands its rows out piece by piece.
    with connection.cursor(name="headrace") as cursor:
        cursor.execute(query)
        columns = list(cursor.description or ())
        types = [_arrow_type(connection, column, what) for column in columns]
        pieces: list[list[pa.Array]] = [[] for _ in columns]
        while rows := cursor.fetchmany(_ROWS):
            for piece, values, kind in zip(pieces, zip(*rows, strict=True), types, strict=True):
                piece.append(pa.array(values, kind))
    found = [_joined(piece, kind) for piece, kind in zip(pieces, types, strict=True)]
    names = [column.name for column in columns]
    if len(set(names)) != len(names):
        raise PlanError(f"the query of {what} names a column twice: {', '.join(names)}")
    return pa.table(found, names=names)


def _arrow_type(connection: psycopg.Connection[Any], column: psycopg.Column, what: str) -> pa.DataType | None:
    """The Arrow type of a column; None for a numeric without declared digits, whose values decide."""
    info = connection.adapters.types.get(column.type_code)
    name = "" if info is None else info.name
    is_array = info is not None and column.type_code == info.array_oid
    if name == "numeric":
        exact = _decimal(column)
        if not is_array:
            return exact
        if exact is not None:
            return pa.list_(exact)
    kind = _TYPES.get(name)
    if kind is None and name != "numeric" and _is_text(connection, column.type_code):
        kind = pa.string()
    if kind is None:
        found = f"{name or 'of its own making'}{' array' if is_array else ''}"
        raise PlanError(
            f'the query of {what} gives column "{column.name}" of type {found}, which has no place here; '
            f"cast it: {column.name}::text, ::double precision or ::bigint"
        )
    return pa.list_(kind) if is_array else kind


def _decimal(column: psycopg.Column) -> pa.DataType | None:
    if column.precision is None or column.scale is None:
        return None
    return pa.decimal128(column.precision, column.scale) if column.precision <= _DIGITS else None


def _is_text(connection: psycopg.Connection[Any], oid: int) -> bool:
    """Enumerations and further types of text, which a database makes itself."""
    with connection.cursor() as cursor:
        found = cursor.execute("SELECT typcategory FROM pg_type WHERE oid = %s", (oid,)).fetchone()
    return found is not None and found[0] in ("E", "S")


def _joined(pieces: Sequence[pa.Array], kind: pa.DataType | None) -> pa.ChunkedArray:
    if kind is not None:
        return pa.chunked_array(pieces, kind)
    kinds = {piece.type for piece in pieces if not pa.types.is_null(piece.type)}
    if not kinds:
        return pa.chunked_array([piece.cast(pa.decimal128(_DIGITS, 0)) for piece in pieces], pa.decimal128(_DIGITS, 0))
    scale = max(found.scale for found in kinds)
    whole = max(found.precision - found.scale for found in kinds)
    common = pa.decimal128(whole + scale, scale) if whole + scale <= _DIGITS else pa.decimal256(whole + scale, scale)
    return pa.chunked_array([piece.cast(common) for piece in pieces], common)


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
