"""Instances of events and table rows."""

from __future__ import annotations

from typing import Any

from headrace.core.errors import SchemaError
from headrace.features.definition import DefinitionBase, definition_of
from headrace.features.typing_rules import shown


class Record(DefinitionBase):
    """Instances of events and table rows: keyword arguments in, attributes out."""

    def __init__(self, **values: Any) -> None:
        definition = definition_of(type(self))
        unknown = sorted(set(values) - set(definition.fields))
        if unknown:
            raise SchemaError(f'{type(self).__name__} has no field "{unknown[0]}"', field=unknown[0])
        for name, field in definition.fields.items():
            if name in values:
                self.__dict__[name] = values[name]
            elif field.has_default:
                self.__dict__[name] = field.spec.default
            elif field.nullable:
                self.__dict__[name] = None
            else:
                raise SchemaError(f'{type(self).__name__} needs field "{name}" ({shown(field.dtype)})', field=name)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"


def to_dict(instance: Any) -> dict[str, Any]:
    """Field values of an event or table row, in declared order, as they were given."""
    return {name: instance.__dict__[name] for name in definition_of(type(instance)).fields}
