"""What operators and methods build, and how they refuse what Python would otherwise do silently."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

import headrace as hr
from headrace.core.errors import DefinitionError
from headrace.core.schema import DType
from headrace.features.column import ColumnOf, column_name
from headrace.features.expr import Constant, Operation, problems_of

User = hr.Entity("user")


class Transfer(hr.Event):
    sender: hr.Field[str] = hr.key(User)
    amount: hr.Field[float]
    items: hr.Field[int]
    member: hr.Field[bool]
    took: hr.Field[timedelta]
    taste: hr.Field[list[float]] = hr.field(size=2)
    at: hr.Field[datetime] = hr.event_time()


NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("expr", "op", "dtype"),
    [
        (Transfer.items + 1, "add", DType.INT),
        (1 + Transfer.items, "add", DType.INT),
        (Transfer.items - 1.5, "sub", DType.FLOAT),
        (1.5 - Transfer.items, "sub", DType.FLOAT),
        (Transfer.items * Transfer.amount, "mul", DType.FLOAT),
        (2 * Transfer.items, "mul", DType.INT),
        (Transfer.items / 2, "div", DType.FLOAT),
        (2 / Transfer.items, "div", DType.FLOAT),
        (-Transfer.items, "neg", DType.INT),
        (Transfer.at - NOON, "sub", DType.DURATION),
        (NOON - Transfer.at, "sub", DType.DURATION),
        (Transfer.at - timedelta(hours=1), "sub", DType.TIMESTAMP),
        (Transfer.at + Transfer.took, "add", DType.TIMESTAMP),
        (Transfer.took / timedelta(hours=1), "div", DType.FLOAT),
        (Transfer.took * 2, "mul", DType.DURATION),
        (Transfer.took.hours(), "hours", DType.FLOAT),
        (Transfer.at.weekday(), "weekday", DType.INT),
        (Transfer.amount > 3, "gt", DType.BOOL),
        (Transfer.sender == "u1", "eq", DType.BOOL),
        (Transfer.sender != Transfer.sender, "ne", DType.BOOL),
        (Transfer.member & ~Transfer.member, "and", DType.BOOL),
        (Transfer.member | Transfer.amount.is_null(), "or", DType.BOOL),
        (Transfer.amount.between(1, 2), "between", DType.BOOL),
        (Transfer.amount.fill_null(0), "fill_null", DType.FLOAT),
        (Transfer.items.fill_null(0), "fill_null", DType.INT),
        (Transfer.sender.is_in(["u2", "u1", "u2"]), "is_in", DType.BOOL),
        (Transfer.taste.cosine(Transfer.taste), "cosine", DType.FLOAT),
    ],
)
def test_operations(expr: hr.Expr[Any], op: str, dtype: DType) -> None:
    assert isinstance(expr, Operation)
    assert (expr.op, expr.dtype) == (op, dtype)
    assert problems_of(expr) == []


def test_constants_are_stored_plainly() -> None:
    assert Transfer.sender.is_in(["u2", "u1", "u2"]).params == ("u1", "u2")  # type: ignore[attr-defined]
    day = (Transfer.at - NOON).args[1]
    assert isinstance(day, Constant)
    assert (day.value, day.dtype) == (1_767_268_800_000_000, DType.TIMESTAMP)


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (lambda: Transfer.sender + 1, "+ does not take str and int"),  # type: ignore[operator]
        (lambda: Transfer.at + Transfer.at, "+ does not take datetime and datetime"),  # type: ignore[operator]
        (lambda: Transfer.sender == 1, "== does not take str and int"),
        (lambda: Transfer.taste == Transfer.taste, "== does not take list[float] and list[float]"),
        (lambda: Transfer.member < Transfer.member, "< does not take bool and bool"),
        (lambda: Transfer.amount & Transfer.member, "& does not take float and bool"),  # type: ignore[operator]
        (lambda: Transfer.amount > float("nan"), "nan is no value; nulls are .is_null()"),
        (lambda: Transfer.items > 2**70, "does not fit into 64 bits"),
        (lambda: Transfer.amount > object(), "cannot stand in an expression"),
        (lambda: Transfer.sender.is_in([1]), ".is_in() does not take str and int"),  # type: ignore[list-item]
        (lambda: Transfer.at.hour("Nowhere"), '"Nowhere" is no time zone'),
    ],
)
def test_wrong_operands_are_kept_as_problems(build: Any, problem: str) -> None:
    found = problems_of(build())
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    ("misuse", "cure"),
    [
        (lambda x: x > 3 and x < 5, "write & | ~ instead of and, or, not"),
        (lambda x: 1 < x < 5, r"\.between\(low, high\)"),
        (lambda x: not x, "write & | ~"),
        (lambda x: 1 if x > 3 else 0, "no truth value"),
        (lambda x: 3 in x, r"write x\.is_in\(\[\.\.\.\]\)"),
        (len, r"count events with hr\.count\(\)"),
        (list, "cannot be iterated over"),
        (lambda x: x == None, r"write x\.is_null\(\)"),  # noqa: E711
        (lambda x: x + None, r"write x\.is_null\(\)"),
    ],
)
def test_misuse_raises_and_names_the_cure(misuse: Any, cure: str) -> None:
    with pytest.raises(DefinitionError, match=cure) as raised:
        misuse(Transfer.amount)
    assert "test_expr.py:" in str(raised.value)


def test_column_names() -> None:
    class Spend(hr.FeatureGroup, key=Transfer.sender):
        n = hr.count(window=["1h", "1d 12h"])

    names = [
        column_name(column)
        for column in (Transfer.amount, Spend.n["1h"], Spend.of(Transfer.sender).n["1d12h"], Spend.n["1d 12h"])
        if isinstance(column, ColumnOf)
    ]
    assert names == ["amount", "spend__n_1h", "sender__spend__n_1d12h", "spend__n_1d12h"]
    assert str(Spend.n["1h"]) == "spend__n_1h"


def test_copied_keys_keep_their_entity() -> None:
    class Sold(hr.FeatureGroup, key=Transfer.sender):
        who = hr.last(Transfer.sender)
        most = hr.max(Transfer.sender)

    assert Sold.who.entity is User
    assert Sold.most.entity is None
    assert Sold.most.as_key(User).entity is User


def test_instances_are_records() -> None:
    row = Transfer(sender="u1", amount=2.0, items=1, member=True, took=timedelta(1), taste=[0.0, 1.0], at=NOON)
    assert row.amount == 2.0
    assert row == Transfer(sender="u1", amount=2.0, items=1, member=True, took=timedelta(1), taste=[0.0, 1.0], at=NOON)
    row.amount = 3.0
    assert row.amount == 3.0
    assert "amount=3.0" in repr(row)
    with pytest.raises(ValueError, match='Transfer needs field "amount"'):
        Transfer(sender="u1")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match='Transfer has no field "colour"'):
        Transfer(colour="red")  # type: ignore[call-arg]
