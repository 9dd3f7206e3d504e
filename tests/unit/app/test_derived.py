"""Derived streams that look something up, in a project: derived as events come and when edited, read on all faces."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.app.project import Project
from headrace.core.derived import decode_derived
from headrace.core.time import SimulatedClock, to_us
from headrace.retrieval.history import HistoryReader, served_at
from tests.unit.app.conftest import NOON

User, Shop, Currency = hr.Entity("user"), hr.Entity("shop"), hr.Entity("currency")


class Transfer(hr.Event):
    transfer_id: hr.Field[str] = hr.id()
    sender: hr.Field[str | None] = hr.key(User)
    shop: hr.Field[int] = hr.key(Shop)
    currency: hr.Field[str] = hr.key(Currency)
    amount: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()


class Fx(hr.Table):
    currency: hr.Field[str] = hr.key(Currency)
    usd: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()


class Chargeback(hr.Event):
    transfer: hr.Field[str] = hr.key(Transfer)
    fraud: hr.Field[bool]
    at: hr.Field[datetime] = hr.event_time()


class Names:
    """The definitions of the project, as a user's module would hold them; `factor` is what an edit changes."""

    def __init__(self, factor: float = 1.0) -> None:
        class Paid(Transfer, where=Transfer.amount > 0.0):
            usd = Transfer.amount * Fx.usd * factor

        class Spend(hr.FeatureGroup, key=Paid.sender):
            n = hr.count(window="7d")
            total = hr.sum(Paid.usd, window="7d")

        class Sold(hr.FeatureGroup, key=Paid.transfer_id):
            shop = hr.last(Paid.shop, window="180d")

        class Disputed(Chargeback):
            shop = Sold.shop

        class Volume(hr.FeatureGroup, key=Transfer.shop):
            n = hr.count(window="60d")

        class Disputes(hr.FeatureGroup, key=Disputed.shop):
            n = hr.count(window="60d", where=Disputed.fraud)
            share = n / Volume.n

        class Refused(Chargeback, where=Chargeback.fraud): ...

        self.Paid, self.Spend, self.Sold, self.Disputed, self.Disputes = Paid, Spend, Sold, Disputed, Disputes
        self.view = hr.FeatureView("transfer", request=Transfer, features=[Spend, Disputes])
        self.large = hr.FeatureView("large", request=Paid, features=[Paid.usd, Spend.n])
        label = hr.Label(Refused.fraud, wait="1d", default=False)
        self.model = hr.Model("fraud", view=self.large, label=label, estimator=Constant())
        self.all = [Transfer, Fx, Chargeback, Paid, Spend, Sold, Disputed, Disputes, self.view, self.large, self.model]


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(to_us(NOON - timedelta(days=50)))


class Constant:
    def fit(self, X: Any, y: Any) -> Any:  # noqa: N803
        return self


def opened(folder: Path, names: Names, clock: SimulatedClock, more: list[Any] | None = None) -> Project:
    return Project.open(folder, clock=clock, definitions=names.all if more is None else more)


def transfer(name: str, at: datetime, amount: float = 1.0, sender: str | None = "ann", shop: int = 7) -> dict[str, Any]:
    return {
        "transfer_id": name,
        "sender": sender,
        "shop": shop,
        "currency": "EUR",
        "amount": amount,
        "at": at.isoformat(),
    }


def rate(at: datetime, usd: float) -> dict[str, Any]:
    return {"currency": "EUR", "usd": usd, "at": at.isoformat()}


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def test_what_is_published_is_derived_and_read(tmp_path: Path, clock: SimulatedClock) -> None:
    names = Names()
    with opened(tmp_path, names, clock) as project:
        project.put("fx", [rate(NOON - timedelta(days=51), 2.0)])
        clock.advance_to(to_us(NOON + minutes(1)))
        project.publish("transfer", [transfer("a", NOON), transfer("b", NOON, -1.0), transfer("c", NOON, 3.0)])
        clock.advance_to(to_us(NOON + minutes(10)))
        row = project.online("transfer", transfer("x", NOON + minutes(9)))
        assert (row[names.Spend.total], row[names.Spend.n]) == (8.0, 2)
        assert project.get(names.Spend, sender="ann").total == 8.0
        row = project.online(names.large, transfer("x", NOON + minutes(9), 5.0))
        assert (row[names.Paid.usd], row[names.Spend.n]) == (10.0, 2)
    # A new process goes on where the last one was.
    with opened(tmp_path, names, clock) as project:
        project.put("fx", [rate(NOON + minutes(10), 3.0)])
        clock.advance_to(to_us(NOON + minutes(12)))
        project.publish("transfer", [transfer("d", NOON + minutes(11)), transfer("a", NOON)])
        project.publish("chargeback", [{"transfer": "a", "fraud": True, "at": (NOON + minutes(11)).isoformat()}])
        clock.advance_to(to_us(NOON + minutes(20)))
        row = project.online("transfer", transfer("x", NOON + minutes(20)))
        assert (row[names.Spend.total], row[names.Disputes.n]) == (11.0, 1)
        history = project.history("transfer", [transfer("x", NOON + minutes(20))])
        assert (history["spend__total"], history["disputes__n"]) == ([11.0], [1])
        early = project.history("transfer", [transfer("x", NOON + minutes(20))], as_of=NOON + minutes(11))
        assert (early["spend__total"], early["disputes__n"]) == ([8.0], [0])
        streams = {stream.name: stream for stream in project.status().streams}
        assert (streams["paid"].events, streams["paid"].uncomputed, streams["paid"].invisible) == (5, 0, 0)
        told = project.describe("paid")
        assert (told.kind, told.reads) == ("derived", ["stream transfer", "table fx"])
        assert told.read_by == ["group spend", "group sold"]
        assert "stream disputed" in project.describe("sold").read_by
        assert project.describe("disputes.share").reads == ["group disputes", "group volume"]
        assert (row[names.Disputes.share], history["disputes__share"]) == (1 / 4, [1 / 4])


def test_requests_and_truths_of_filtered_streams(tmp_path: Path, clock: SimulatedClock) -> None:
    names = Names()
    with opened(tmp_path, names, clock) as project:
        project.put("fx", [rate(NOON - timedelta(days=51), 2.0)])
        clock.advance_to(to_us(NOON + minutes(1)))
        project.publish("transfer", [transfer("a", NOON), transfer("b", NOON, -1.0), transfer("c", NOON, 3.0)])
        at = (NOON + minutes(1)).isoformat()
        truths = [{"transfer": "a", "fraud": True, "at": at}, {"transfer": "c", "fraud": False, "at": at}]
        project.publish("chargeback", truths)
        rows = project.history(names.large)
        assert dict(zip(rows["transfer_id"], rows["usd"], strict=True)) == {"a": 2.0, "c": 6.0}
        clock.advance_to(to_us(NOON + timedelta(days=2)))
        # A later truth that the filter leaves out does not replace the one that counts.
        later = (NOON + timedelta(days=1)).isoformat()
        project.publish("chargeback", [{"transfer": "a", "fraud": False, "at": later}])
        rows = project.history(names.model)
        assert dict(zip(rows["transfer_id"], rows["label"], strict=True)) == {"a": True, "c": False}


def test_apply_derives_a_new_and_an_edited_stream_from_the_log(tmp_path: Path, clock: SimulatedClock) -> None:
    names = Names()
    with opened(tmp_path, names, clock, [Transfer, Fx, Chargeback]) as project:
        project.put("fx", [rate(NOON - timedelta(days=51), 2.0)])
        clock.advance_to(to_us(NOON + minutes(1)))
        # Weeks behind the clock: what is looked up lies beyond the horizon of the deriver's state.
        old = [transfer(f"o{day}", NOON - timedelta(days=day)) for day in range(1, 4)]
        project.publish("transfer", [transfer("n", NOON), *old])
    with opened(tmp_path, names, clock) as project:
        changes = project.apply()
        assert changes.derives == ("paid", "disputed")
        assert "stream paid is derived from the events in the log" in str(changes)
        asked = transfer("x", NOON + minutes(1))
        assert project.online("transfer", asked)[names.Spend.total] == 8.0
    edited = Names(factor=10.0)
    with opened(tmp_path, edited, clock) as project:
        assert {str(change) for change in project.plan().changes if change.kind == "derived"} == {
            str(change) for change in project.apply().changes if change.kind == "derived"
        }
        assert project.online("transfer", asked)[edited.Spend.total] == 80.0
        project.publish("transfer", [transfer("m", NOON + minutes(0.5))])
        assert project.online("transfer", asked)[edited.Spend.total] == 100.0
    # Back again: the former topic lacks only what came since.
    with opened(tmp_path, names, clock) as project:
        project.apply()
        assert project.online("transfer", asked)[names.Spend.total] == 10.0
        project.publish("transfer", [transfer("l", NOON + minutes(0.75), 2.0)])
        assert project.online("transfer", asked)[names.Spend.total] == 14.0
        assert project.history("transfer", [asked])["spend__total"] == [14.0]


def test_each_derived_record_says_what_it_looked_at(tmp_path: Path, clock: SimulatedClock) -> None:
    names = Names()
    with opened(tmp_path, names, clock) as project:
        project.put("fx", [rate(NOON - timedelta(days=51), 2.0)])
        clock.advance_to(to_us(NOON + minutes(1)))
        project.publish("transfer", [transfer("a", NOON), transfer("late", NOON - timedelta(days=8))])
        project.put("fx", [rate(NOON + minutes(1), 3.0)])
        clock.advance_to(to_us(NOON + minutes(3)))
        project.publish("transfer", [transfer("b", NOON + minutes(2)), transfer("later", NOON - timedelta(days=7))])
        for name in ("a", "later"):
            project.publish("chargeback", [{"transfer": name, "fraud": True, "at": (NOON + minutes(2)).isoformat()}])
        parts = project.parts
        for topic, derived in parts.plan.derived.items():
            column = derived.computed[0]
            for batch in parts.raw.read(topic, 0, 0):
                held = decode_derived(batch.payload)
                (source,) = parts.raw.read(derived.source, 0, batch.base, batch.count)
                assert (source.base, source.count) == (batch.base, batch.count)
                assert set(held.arrivals.tolist()) == {source.arrival_us}
                events = parts.past.events(topic, [*derived.view.request.first_names, column])
                events = events.filter([batch.base <= at < batch.end for at in events["_offset"].to_pylist()])
                request = {field.name: hr_column(events, field.name, field.dtype) for field in derived.view.request}
                reader = HistoryReader(derived.view, parts.plan, parts.past)
                again = reader.read(request, served_at(held.position, events.num_rows))
                assert again.column(column).to_pylist() == events[column].to_pylist()
        assert parts.past.events(topic, [column])[column].to_pylist() == [7, 7]


def hr_column(events: Any, name: str, dtype: Any) -> Any:
    from headrace.core.arrow import from_arrow

    return from_arrow(events[name], dtype, name)


@pytest.mark.parametrize("late_by", [1, 60 * 24 * 5])
def test_history_derives_again_of_what_came_late(tmp_path: Path, clock: SimulatedClock, late_by: int) -> None:
    names = Names()
    with opened(tmp_path, names, clock) as project:
        clock.advance_to(to_us(NOON + minutes(2)))
        project.publish("chargeback", [{"transfer": "a", "fraud": True, "at": (NOON + minutes(1)).isoformat()}])
        clock.advance_to(to_us(NOON + minutes(2 + late_by)))
        project.publish("transfer", [transfer("a", NOON)])
        asked = transfer("x", NOON + minutes(3 + late_by))
        assert project.online("transfer", asked)[names.Disputes.n] == 0
        assert project.history("transfer", [asked])["disputes__n"] == [1]
        assert project.history("transfer", [asked], as_of=NOON + minutes(3 + late_by))["disputes__n"] == [0]


def test_the_clock_of_a_derived_stream_is_that_of_its_source(tmp_path: Path, clock: SimulatedClock) -> None:
    names = Names()
    with opened(tmp_path, names, clock) as project:
        clock.advance_to(to_us(NOON))
        # An event ahead of its arrival moves no clock past the arrival, so what is now can still be read.
        project.publish("transfer", [transfer("ahead", NOON + minutes(50)), transfer("a", NOON - minutes(1))])
        row = project.online("transfer", transfer("x", NOON))
        assert row[names.Spend.n] == 1
        topics = list(project.parts.plan.derived)
        assert row.position.clock_us[topics[0]] == row.position.clock_us["transfer"] == to_us(NOON)


def test_streams_of_several_partitions(tmp_path: Path, clock: SimulatedClock) -> None:
    names = Names()
    with Project.open(tmp_path, clock=clock, definitions=names.all, partitions=3) as project:
        project.put("fx", [rate(NOON - timedelta(days=51), 2.0)])
        for number in range(12):
            clock.advance_to(to_us(NOON + minutes(number)))
            at = NOON + minutes(number - 1)
            rows = [transfer(f"t{number}.{i}", at - minutes(i), float(i), shop=i % 2) for i in range(5)]
            project.publish("transfer", [*rows, rows[1]])
            if number:
                disputed = [f"t{number - 1}.{i}" for i in range(1, 5)]
                project.publish("chargeback", [{"transfer": t, "fraud": True, "at": at.isoformat()} for t in disputed])
    clock.advance_to(to_us(NOON + minutes(30)))
    with Project.open(tmp_path, clock=clock, definitions=names.all, partitions=3) as project:
        topics = project.parts.raw.topics()
        assert {topics[topic] for topic in project.parts.plan.derived} == {topics["transfer"]} == {3}
        row = project.get(names.Spend, sender="ann", at=NOON + minutes(12))
        assert (row.n, row.total) == (12 * 4, 12 * 2.0 * (1 + 2 + 3 + 4))
        assert [project.get(names.Disputes, shop=shop, at=NOON + minutes(12)).n for shop in (0, 1)] == [22, 22]
        asked = [{**transfer("x", NOON + minutes(12)), "shop": shop} for shop in (0, 1)]
        for as_of in (None, NOON + minutes(20)):
            rows = project.history("transfer", asked, as_of=as_of)
            assert (rows["disputes__n"], rows["spend__n"]) == ([22, 22], [48, 48])
        (stream,) = [stream for stream in project.status().streams if stream.name == "paid"]
        assert (stream.events, stream.uncomputed) == (12 * 6, 0)


def test_a_new_stream_looks_up_a_new_group_as_if_it_had_always_been_there(
    tmp_path: Path, clock: SimulatedClock
) -> None:
    """The group is backfilled, so the log holds none of its older deltas; what derives must know them all the same."""

    class Sold(hr.FeatureGroup, key=Transfer.transfer_id):
        shop = hr.last(Transfer.shop, window="180d")

    class Disputed(Chargeback):
        shop = Sold.shop

    class Disputes(hr.FeatureGroup, key=Disputed.shop):
        n = hr.count(window="60d", where=Disputed.fraud)

    view = hr.FeatureView("disputes", request=Transfer, features=[Disputes])
    before, after = [Transfer, Chargeback], [Transfer, Chargeback, Sold, Disputed, Disputes, view]

    def pay(project: Project, name: str, shop: int, at: datetime) -> None:
        clock.advance_to(to_us(at))
        project.publish("transfer", [transfer(name, at, shop=shop)])
        clock.advance_to(to_us(at + minutes(1)))
        project.publish("chargeback", [{"transfer": name, "fraud": True, "at": (at + minutes(1)).isoformat()}])

    with Project.open(tmp_path, clock=clock, definitions=before) as project:
        pay(project, "a", 7, NOON)
        project.settle()
    for round_ in range(2):
        # The second time a new process finds the state as the first one left it.
        with Project.open(tmp_path, clock=clock, definitions=after) as project:
            project.apply()
            pay(project, f"b{round_}", 7, NOON + minutes(2 + 8 * round_))
            at = NOON + minutes(6 + 8 * round_)
            clock.advance_to(to_us(at))
            assert project.online("disputes", transfer("x", at))[Disputes.n] == 2 + round_
            assert project.history("disputes", [transfer("x", at)])["disputes__n"] == [2 + round_]
