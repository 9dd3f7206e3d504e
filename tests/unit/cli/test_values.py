"""`field=value` is read by the field's type, or refused by name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click
import pytest

from headrace.cli.data import _flat
from headrace.cli.values import read_fields
from headrace.core.schema import DType, Field
from headrace.core.time import parse_time

FIELDS = [
    Field("name", DType.STRING, nullable=True),
    Field("n", DType.INT),
    Field("x", DType.FLOAT, nullable=True),
    Field("ok", DType.BOOL),
    Field("at", DType.TIMESTAMP),
    Field("took", DType.DURATION),
    Field("taste", DType.LIST, size=2),
]


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("name=a=b", "a=b"),
        ("name=", ""),
        ("name=null", None),
        ("n=-3", -3),
        ("x=2", 2.0),
        ("x=null", None),
        ("ok=Yes", True),
        ("ok=0", False),
        ("at=2026-05-01T12:00:00Z", parse_time("2026-05-01T12:00:00Z")),
        ("took=90m", timedelta(minutes=90)),
        ("taste=[1, null]", [1.0, None]),
    ],
)
def test_values_are_typed(pair: str, value: Any) -> None:
    assert read_fields(FIELDS, [pair]) == {pair.partition("=")[0]: value}


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["n"], "no FIELD=VALUE"),
        (["nn=3"], "did you mean n"),
        (["n=3", "n=4"], "given twice"),
        (["n=x"], 'n="x" is no int'),
        (["n=null"], 'n="null" is no int'),
        (["ok=maybe"], "write true or false"),
        (["at=yesterday"], "is no timestamp"),
        (["took=long"], "is no duration"),
        (["taste=1"], "is no list"),
    ],
)
def test_what_cannot_be_read_is_named(pairs: list[str], said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        read_fields(FIELDS, pairs)


def test_a_family_is_shown_window_by_window_and_a_map_as_it_is() -> None:
    values = {"n": {"1h": 1, "7d": 2}, "kinds": {"a": 3}, "by": {"1h": {"a": 4}}}
    names = ("n_1h", "n_7d", "kinds", "by_1h")
    assert _flat(values, names) == {"n_1h": 1, "n_7d": 2, "kinds": {"a": 3}, "by_1h": {"a": 4}}
