"""What becomes of the fields of a stream whose events lie in the log and the archive already.

Older events are never written again: they are read under the new fields. So a change is allowed only if every event of
every former definition reads without loss, and the same from the log as from the archive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.core.schema import DType, Field, Schema
from headrace.features.typing_rules import shown

Body = Mapping[str, Any]


def field_body(field: Field) -> dict[str, Any]:
    """A field as the catalog keeps it."""
    return {
        "name": field.name,
        "type": field.dtype.value,
        "nullable": field.nullable,
        "entity": field.entity,
        "size": field.size,
        "doc": field.doc,
        "has_default": field.has_default,
        "default": field.default,
        "aliases": list(field.aliases),
        **({"personal": True} if field.personal else {}),
    }


def evolved(former: Body, schema: Schema) -> str:
    """How the fields differ from those applied last, such as `+ channel (default "app"), amount int -> float`."""
    olds = {schema.current_name(old["name"]): old for old in former["fields"]}
    told = []
    for field in schema:
        old = olds.get(field.name)
        if old is None:
            stands_in = f"default {json.dumps(field.default)}" if field.has_default else "null in older events"
            told.append(f"+ {field.name} ({stands_in})")
            continue
        if old["name"] != field.name:
            told.append(f"{field.name} renamed from {old['name']}")
        if old["type"] != field.dtype.value:
            told.append(f"{field.name} {shown(DType(old['type']))} -> {shown(field.dtype)}")
        if field.nullable and not old["nullable"]:
            told.append(f"{field.name} may be null")
        default = (field.has_default, field.default)
        if (old.get("has_default", field.has_default), old.get("default", field.default)) != default:
            stands_in = f"default {json.dumps(field.default)}" if field.has_default else "no default"
            told.append(f"{field.name} with {stands_in} from now on")
    told += [
        f"- {old['name']} (read by nothing; an event that still brings it is a dead letter)"
        for old in former["fields"]
        if schema.current_name(old["name"]) is None
    ]
    return ", ".join(told)


def widened(former: Body, schema: Schema) -> list[str]:
    """The fields that were int and are float."""
    olds = {schema.current_name(old["name"]): old["type"] for old in former["fields"]}
    return [field.name for field in schema if field.dtype is DType.FLOAT and olds.get(field.name) == "int"]


def refusals(stream: str, formers: Sequence[Body], schema: Schema) -> list[str]:
    """Why events of the former definitions cannot be read under `schema`, each with its cure; empty if they can."""
    found: dict[str, None] = {}
    for former in formers:
        found |= dict.fromkeys(_identity(former, schema))
        found |= dict.fromkeys(_kept(former, schema))
        found |= dict.fromkeys(_added(former, formers, schema))
    return [f"stream {stream}: {reason}" for reason in found]


def _identity(former: Body, schema: Schema) -> list[str]:
    """The event time and the id decide verdicts and partitions: they may only change their names."""
    found = []
    for what, old, new in (("event time", former["time"], schema.time_field), ("id", former["id"], schema.id_field)):
        if old is None and new is not None:
            found.append(f'there was no {what}, now it is "{new}"; events were judged without: declare a new stream')
        elif old is not None and (new is None or schema.current_name(old) != new):
            now = "now there is none" if new is None else f'now it is "{new}"'
            cure = f'if it was renamed, give it alias="{old}", else keep it or declare a new stream'
            found.append(f'the {what} was "{old}", {now}; {cure}')
    return found


def _kept(former: Body, schema: Schema) -> list[str]:
    found = []
    seen: dict[str, str] = {}
    for old in former["fields"]:
        name, was = schema.current_name(old["name"]), old["name"]
        if name is None:
            continue
        field = schema[name]
        where = f'field "{name}"' if name == was else f'field "{name}" (once "{was}")'
        kept = shown(DType(old["type"]))
        if name in seen:
            found.append(f'"{seen[name]}" and "{was}" were two fields; an alias is a former name of one field')
        seen[name] = was
        if old["type"] != field.dtype.value and (old["type"], field.dtype) != ("int", DType.FLOAT):
            found.append(
                f"{where} was {kept}, now it is {shown(field.dtype)}; only int may become float: "
                f"keep {kept}, or add a field of another name"
            )
        elif old["size"] != field.size:
            found.append(f"{where} had {old['size']} elements, now {field.size}; add a field of another name")
        if old["nullable"] and not field.nullable:
            found.append(f"{where} is null in older events; keep the type with | None")
        first = (old.get("aliases") or [was])[0]
        lost = [alias for alias in old.get("aliases", ()) if alias not in field.names]
        if lost or field.first_name != first:
            aliases = [*old.get("aliases", ()), *([was] if was != name else [])]
            cure = f"write alias={json.dumps(aliases)}" if aliases else "take the alias away"
            found.append(f"{where}: aliases are its former names, all of them, the oldest first; {cure}")
    return found


def _added(former: Body, formers: Sequence[Body], schema: Schema) -> list[str]:
    found = []
    there = {schema.current_name(old["name"]) for old in former["fields"]}
    gone = [old for old in former["fields"] if schema.current_name(old["name"]) is None]
    for field in schema:
        if field.name in there:
            continue
        if not field.nullable and not field.has_default:
            near = [old["name"] for old in gone if old["type"] == field.dtype.value]
            renamed = f'; if it is the former "{near[0]}", give it alias="{near[0]}"' if near else ""
            found.append(
                f'field "{field.name}" is not in older events; give it | None or hr.field(default=...){renamed}'
            )
        elif field.nullable and field.default is not None:
            found.append(
                f'field "{field.name}" is not in older events, and may be null while its default is '
                f"{json.dumps(field.default)}: the two could not be told apart; take | None or the default away"
            )
        for other in formers:
            for old in other["fields"]:
                stood = _stand_in(old)
                if schema.current_name(old["name"]) == field.name and stood not in (None, _stand_in(field_body(field))):
                    found.append(
                        f'field "{field.name}" read as {json.dumps(stood[0])} in events older than itself, '
                        "and that is in what was computed; keep this default"
                    )
    return found


def _stand_in(field: Body) -> tuple[Any] | None:
    """What stands in where the field does not arrive, in a tuple; None if it must arrive or if that is not known."""
    if field.get("has_default"):
        return (field["default"],)
    return (None,) if field["nullable"] and "has_default" in field else None
