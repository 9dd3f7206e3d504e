"""Whole rows of a view, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.core.schema import DType, Field, Schema
from headrace.features.nodes import Call, ColumnRef
from headrace.features.plan import (
    AggregateSpec,
    Binding,
    GroupPlan,
    InputSpec,
    KeyPart,
    ProjectPlan,
    StreamPlan,
    TablePlan,
    ViewColumn,
    ViewPlan,
)
from headrace.testing.oracle import RawEvent, TableRow, judge, view_row

PAID = StreamPlan(
    "paid",
    Schema("paid", (Field("user", DType.STRING), Field("x", DType.FLOAT), Field("at", DType.TIMESTAMP)), "at"),
)
USER = (KeyPart("user", DType.STRING, "user"),)
SPEND = GroupPlan(
    "spend", "0" * 16, "paid", None, USER, (InputSpec(ColumnRef("x", DType.FLOAT), DType.FLOAT),),
    (AggregateSpec("total", "sum", 0, None, 60, 1, 0, DType.FLOAT),), (), ("total",),
)  # fmt: skip
AGES = TablePlan(
    "ages", "0" * 16,
    Schema("ages", (Field("user", DType.STRING), Field("age", DType.INT), Field("at", DType.TIMESTAMP)), "at"),
    USER, None, None, None, None, 0, (),
)  # fmt: skip
TRANSFER = Schema(
    "transfer",
    (
        Field("sender", DType.STRING),
        Field("receiver", DType.STRING, nullable=True),
        Field("amount", DType.FLOAT, nullable=True),
        Field("at", DType.TIMESTAMP),
    ),
    "at",
)
AMOUNT, SENT, USUAL = (ColumnRef(name, DType.FLOAT) for name in ("amount", "spend__total", "usual"))
VIEW = ViewPlan(
    "transfer", "0" * 16, "transfer", TRANSFER,
    (
        Binding("spend", False, "", ("sender",)),
        Binding("spend", False, "receiver__", ("receiver",)),
        Binding("ages", True, "receiver__", ("receiver",)),
    ),
    (
        ViewColumn("spend__total", DType.FLOAT, "feature", 0, "total", hidden=True),
        ViewColumn("receiver__spend__total", DType.FLOAT, "feature", 1, "total"),
        ViewColumn("receiver__ages__age", DType.INT, "feature", 2, "age"),
        ViewColumn("amount", DType.FLOAT, "request"),
        ViewColumn("usual", DType.FLOAT, "computed", node=Call("div", (AMOUNT, SENT), DType.FLOAT)),
        ViewColumn("twice", DType.FLOAT, "computed", node=Call("add", (USUAL, USUAL), DType.FLOAT)),
    ),
)  # fmt: skip
PROJECT = ProjectPlan({"paid": PAID}, {"spend": SPEND}, {"ages": AGES}, {"transfer": VIEW}, {})
EVENTS = {
    "paid": judge(
        PAID,
        [
            RawEvent(0, 0, 10, {"user": "ann", "x": 4.0, "at": 10}),
            RawEvent(0, 1, 20, {"user": "bob", "x": 5.0, "at": 20}),
            RawEvent(0, 2, 21, {"user": "ann", "x": 4.0, "at": 21}),
            RawEvent(0, 3, 30, {"user": "ann", "x": 100.0, "at": 30}),
        ],
    )
}
ROWS = {"ages": [TableRow(0, 5, ("bob",), 5, {"user": "bob", "age": 40, "at": 5})]}


def read(
    t: int = 30, positions: dict[str, list[int]] | None = None, table_position: int | None = None, **fields: Any
) -> Any:
    request = {"sender": "ann", "receiver": "bob", "amount": 4.0, "at": t, **fields}
    return view_row(PROJECT, VIEW, request, t, EVENTS, ROWS, positions, table_position)


def test_columns_come_in_order_with_roles_and_without_hidden_ones() -> None:
    # The sender's events at 10 and 21, not the one at the request's own time.
    assert list(read().items()) == [
        ("receiver__spend__total", 5.0), ("receiver__ages__age", 40), ("amount", 4.0), ("usual", 0.5), ("twice", 1.0),
    ]  # fmt: skip


def test_a_null_key_reads_as_an_unseen_entity() -> None:
    row = read(receiver=None)
    assert (row["receiver__spend__total"], row["receiver__ages__age"], row["usual"]) == (None, None, 0.5)


def test_nulls_go_through_computed_columns() -> None:
    assert read(amount=None)["twice"] is None
    assert read(sender="nobody")["twice"] is None


@pytest.mark.parametrize(("known", "usual"), [(0, None), (1, 1.0), (3, 0.5)])
def test_as_served_reads_streams_below_their_position(known: int, usual: float | None) -> None:
    assert read(positions={"paid": [known]})["usual"] == usual


def test_as_served_reads_tables_below_theirs() -> None:
    assert read(table_position=0)["receiver__ages__age"] is None
    assert read(table_position=1)["receiver__ages__age"] == 40
