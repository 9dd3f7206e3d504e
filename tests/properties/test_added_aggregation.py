"""An aggregation that one file adds to the catalog works everywhere, with nothing else touched."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as example_of
from hypothesis import strategies as st

import headrace as hr
from headrace.aggregations import catalog
from headrace.aggregations.registry import aggregation, aggregations
from headrace.core.errors import PlanError
from headrace.core.schema import DType
from headrace.features.aggregate import Aggregate
from headrace.features.plan import GroupPlan, StreamPlan
from headrace.testing import given, strategies
from headrace.testing.oracle import RawEvent, clock, group_row, judge
from tests.properties.test_aggregation_laws import hold_for
from tests.properties.test_engine_vs_oracle import SEEDS, partitions_of, questions, run
from tests.properties.world import SOME, differing, group_view, served_at, shown

ADDED = Path(__file__).parent / "added"
USER = hr.Entity("user")


@pytest.fixture(scope="module", autouse=True)
def _added() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "__path__", [*catalog.__path__, str(ADDED)])
        aggregations.cache_clear()
        yield
    aggregations.cache_clear()
    sys.modules.pop(f"{catalog.__name__}.value_range", None)


class Paid(hr.Event):
    user: hr.Field[str] = hr.key(USER)
    usd: hr.Field[float]
    items: hr.Field[int | None]
    name: hr.Field[str]
    at: hr.Field[datetime] = hr.event_time()


def value_range(*args: Any, **given: Any) -> Any:
    return hr.value_range(*args, **given)  # type: ignore[attr-defined]


def t(minute: int) -> datetime:
    return datetime(2026, 1, 2, 10, minute, tzinfo=timezone.utc)


def test_it_is_declared_and_read_like_any_other() -> None:
    class Spread(hr.FeatureGroup, key=Paid.user):
        usd = value_range(Paid.usd, window=["10m", "1h"], doc="How far payments differ.")
        items = value_range(Paid.items, scale=-1)
        large = value_range(Paid.usd, window="1h", where=Paid.usd > 5.0)
        double = usd["1h"] * 2.0

    paid = [(0, 1.0, 7), (10, 9.5, None), (20, 4.0, 2)]
    world = given(*(Paid(user="ann", usd=usd, items=items, name="x", at=t(at)) for at, usd, items in paid))
    row = world.get(Spread, user="ann", at=t(21))
    assert (row.usd["10m"], row.usd["1h"], row.items, row.large, row.double) == (0.0, 8.5, -5, 0.0, 17.0)
    assert world.get(Spread, user="bob", at=t(21)).usd["1h"] is None


def test_a_value_that_no_float_holds_is_null() -> None:
    class Far(hr.FeatureGroup, key=Paid.user):
        usd = value_range(Paid.usd, window="1h")

    paid = [Paid(user="ann", usd=usd, items=None, name="x", at=t(0)) for usd in (1.7e308, -1.7e308)]
    assert given(*paid).get(Far, user="ann", at=t(1)).usd is None


def test_what_it_does_not_take_is_refused() -> None:
    def problem(made: Aggregate[Any]) -> str | None:
        return made.problem

    assert problem(value_range(Paid.name)) == "hr.value_range does not take str; it takes float, int"
    assert problem(value_range(Paid.usd, scale=3)) == "hr.value_range: scale is 1 or -1, not 3"
    assert problem(value_range(Paid.usd, by=Paid.name)) == "hr.value_range takes no by="
    assert problem(value_range()) == "hr.value_range needs a column"
    assert problem(value_range(Paid.usd, rows=3)) == (
        "hr.value_range has no option rows=; it has window, where, hop, delay and doc"
    )
    with pytest.raises(AttributeError, match="has no attribute 'value_rang'"):
        getattr(hr, "value_rang")  # noqa: B009
    with pytest.raises(PlanError, match='there is no aggregation "value_rang"; there are all, any, '):
        aggregation("value_rang")


def test_its_type_is_that_of_its_column() -> None:
    assert value_range(Paid.items).dtype is DType.INT
    assert value_range(Paid.usd).dtype is DType.FLOAT


def test_its_states_merge_as_those_of_all_others() -> None:
    hold_for(aggregation("value_range"))


@st.composite
def cases(draw: st.DrawFn) -> tuple[StreamPlan, list[RawEvent], GroupPlan]:
    """Groups with the added aggregation, beside those that share its lanes or have growing states."""
    stream = draw(strategies.streams())
    records = draw(strategies.histories(stream, max_events=40))
    kinds = ("value_range", "value_range", "min", "sum", "first", "n_unique")
    return stream, records, draw(strategies.group_plans(stream, max_aggregates=6, kinds=kinds))


@SOME
@example_of(cases(), SEEDS, st.data())
def test_online_history_and_as_served_give_the_value_of_all_events(
    case: tuple[StreamPlan, list[RawEvent], GroupPlan], seed: int, data: st.DataObject
) -> None:
    stream, records, group = case
    keys, times = data.draw(questions(stream, records, group))
    newest = clock(stream, records)
    asked = times if newest is None else [max(t, newest) for t in times]
    events, view = judge(stream, records), group_view(group)
    with tempfile.TemporaryDirectory() as folder:
        world = run(folder, stream, group, records, 0, random.Random(seed), restarts=True)
        online = world.read(view, keys, asked)
        corrected = world.history(view, keys, times)
        served = served_at(online.position, [stream.name], partitions_of(records), len(keys))
        again = world.history(view, keys, asked, served)
    for row, key in enumerate(keys):
        assert differing(shown(online, row), group_row(group, key, asked[row], events)) == {}
        assert differing(shown(again, row), shown(online, row)) == {}
        assert differing(shown(corrected, row), group_row(group, key, times[row], events)) == {}
