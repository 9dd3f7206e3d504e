"""`field=value` on the command line becomes typed values."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click
import msgspec

from headrace.core.time import parse_duration, parse_time

if TYPE_CHECKING:
    from headrace.core.schema import Field

_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


def read_fields(fields: Sequence[Field], pairs: Sequence[str]) -> dict[str, Any]:
    """Values by field name; raises a usage error naming the pair that cannot be read.

    "null" is null where the field may be null. Times are ISO 8601, durations such as "90m", lists JSON.
    """
    known = {field.name: field for field in fields}
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise click.UsageError(f'"{pair}" is no FIELD=VALUE; fields are {", ".join(known)}')
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"fields are {', '.join(known)}"
            raise click.UsageError(f'there is no field "{name}"; {hint}')
        if name in found:
            raise click.UsageError(f'"{name}" is given twice')
        found[name] = read_value(known[name], text)
    return found


def read_value(field: Field, text: str) -> Any:
    """One value; raises a usage error if the text is none of the field's type."""
    if text == "null" and field.nullable:
        return None
    kind = field.dtype.value
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
        if kind == "bool":
            return _bool(text)
        if kind == "timestamp":
            return parse_time(text)
        if kind == "duration":
            return timedelta(microseconds=parse_duration(text))
        if kind == "list":
            return msgspec.json.decode(text, type=list[float | None])
    except (ValueError, msgspec.DecodeError) as error:
        raise click.UsageError(f'{field.name}="{text}" is no {kind}: {error}') from None
    return text


def _bool(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise ValueError("write true or false")
    return text.lower() in _TRUE
