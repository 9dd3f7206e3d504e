"""A user's feature test: what is given, what is read, and that a path that goes wrong is caught."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given as example_of
from hypothesis import settings
from hypothesis import strategies as st

import headrace as hr
from headrace.core.columns import Column
from headrace.core.errors import DefinitionError, PlanError, SchemaError
from headrace.engines.stream.worker import ComputeWorker
from headrace.retrieval.history import HistoryReader
from headrace.retrieval.online import OnlineReader
from headrace.testing import given, late
from headrace.testing.runs import Run

User, Currency, Item = hr.Entity("user"), hr.Entity("currency"), hr.Entity("item")


def t(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-01-02T{clock}").replace(tzinfo=timezone.utc)


class Transfer(hr.Event):
    transfer_id: hr.Field[str] = hr.id()
    sender: hr.Field[str] = hr.key(User)
    receiver: hr.Field[str] = hr.key(User)
    currency: hr.Field[str] = hr.key(Currency)
    amount: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()


class Login(hr.Event, lateness="1h"):
    user: hr.Field[str] = hr.key(User)
    lat: hr.Field[float | None]
    at: hr.Field[datetime] = hr.event_time()


class Fx(hr.Table):
    currency: hr.Field[str] = hr.key(Currency)
    usd: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()


class Weather(hr.Table, ttl="3h"):
    user: hr.Field[str] = hr.key(User)
    rain: hr.Field[float | None]
    sky: hr.Field[str | None]
    taste: hr.Field[list[float]] = hr.field("embedding", size=2)
    at: hr.Field[datetime] = hr.event_time()


class Country(hr.Table):
    currency: hr.Field[str] = hr.key(Currency)
    people: hr.Field[int]


class Large(Transfer, where=Transfer.amount >= 100.0):
    pass


class Spend(hr.FeatureGroup, key=Transfer.sender):
    n = hr.count(window=["10m", "1h", "7d"])
    mean = hr.mean(Transfer.amount, window="30d")
    last = hr.last(Transfer.amount)
    jump = last / mean


class LastLogin(hr.FeatureGroup, key=Login.user):
    n = hr.count(window="1d")
    lat, at = hr.last(Login.lat), hr.last(Login.at)


class Now(hr.OnRequest):
    usd = Transfer.amount * Fx.usd
    hours = (Transfer.at - LastLogin.of(Transfer.sender).at).hours()


view = hr.FeatureView(
    "transfer",
    request=Transfer,
    features=[
        Spend.of(Transfer.sender), Spend.of(Transfer.receiver).n, LastLogin.of(Transfer.sender), Now,
        Weather.of(Transfer.receiver), Country, Transfer.amount,
    ],
)  # fmt: skip
SENT, RECEIVED = Spend.of(Transfer.sender), Spend.of(Transfer.receiver)


def transfer(name: str, clock: str, amount: float = 10.0, sender: str = "ann", receiver: str = "bob") -> Transfer:
    return Transfer(
        transfer_id=name, sender=sender, receiver=receiver, currency="EUR", amount=amount, at=t(clock)
    )  # fmt: skip


def test_online_reads_what_happened_before_the_request() -> None:
    world = given(
        Fx(currency="EUR", usd=1.1, at=t("09:00")),
        Login(user="ann", lat=52.0, at=t("10:00")),
        late(transfer("a", "11:58"), by="5m"),
        transfer("b", "11:59", amount=30.0),
    )
    row = world.online(view, transfer("c", "12:00", amount=50.0))
    assert (row[SENT.n["10m"]], row[SENT.mean], row[SENT.jump], row[Now.hours]) == (2, 20.0, 1.5, 2.0)
    assert row[Now.usd] == 50.0 * 1.1
    assert row["sender__last_login__at"] == t("10:00")
    assert row[Transfer.amount] == 50.0
    assert row.age is not None
    assert row.age.total_seconds() == 60.0


def test_an_event_at_the_time_itself_is_outside() -> None:
    world = given(transfer("a", "11:58"), transfer("b", "11:59"))
    assert world.get(Spend, sender="ann", at=t("11:59")).n["10m"] == 1
    assert world.get(Spend, sender="ann", at="2026-01-02T11:59:00.000001Z").n["10m"] == 2
    assert world.get(Spend, sender="ann", at=t("12:08")).n["10m"] == 2
    assert world.get(Spend, sender="ann", at="2026-01-02T12:08:00.000001Z").n["10m"] == 1
    assert world.get(Spend, sender="ann").n["7d"] == 2


def test_roles_read_their_own_entity() -> None:
    world = given(transfer("a", "11:00", sender="bob"), transfer("b", "11:01"), transfer("c", "11:02", sender="bob"))
    row = world.online(view, transfer("d", "11:30"))
    assert (row[SENT.n["1h"]], row[RECEIVED.n["1h"]]) == (1, 2)


def test_served_reads_only_what_had_arrived() -> None:
    world = given(late(transfer("a", "11:50"), by="20m"), transfer("b", "11:55"), transfer("c", "12:30"))
    request = transfer("d", "12:00")
    assert world.online(view, request)[SENT.n["1h"]] == 2
    assert world.online(view, request, served=True)[SENT.n["1h"]] == 1
    # What arrives at the very moment of the read is not known yet.
    assert world.get(Spend, sender="ann", at=t("12:10"), served=True).n["1h"] == 1
    assert world.get(Spend, sender="ann", at="2026-01-02T12:10:00.000001Z", served=True).n["1h"] == 2


def test_the_newest_row_of_a_table_counts_until_its_ttl() -> None:
    def weather(clock: str, rain: float | None, sky: str | None) -> Weather:
        return Weather(user="bob", rain=rain, sky=sky, taste=[1.0, 2.0], at=t(clock))

    world = given(weather("09:00", 1.0, "grey"), late(weather("10:00", None, "blue"), by="30m"))
    wanted = {"09:00": None, "09:30": "grey", "10:15": "grey", "10:30": "grey", "11:00": "blue", "13:00": "blue"}
    found = {clock: world.get(Weather, user="bob", at=t(clock)) for clock in [*wanted, "13:01"]}
    assert found.pop("13:01") is None
    assert {clock: None if row is None else row.sky for clock, row in found.items()} == wanted
    assert found["11:00"] == weather("10:00", None, "blue")
    row = world.online(view, transfer("a", "11:00"))
    assert (row["receiver__weather__sky"], row["receiver__weather__rain"]) == ("blue", None)
    assert row["receiver__weather__taste"] == [1.0, 2.0]


def test_later_of_two_rows_of_one_time_counts() -> None:
    world = given(Fx(currency="EUR", usd=1.0, at=t("09:00")), Fx(currency="EUR", usd=2.0, at=t("09:00")))
    found = world.get(Fx, currency="EUR")
    assert found is not None
    assert found.usd == 2.0


def test_a_table_without_event_time_was_always_there() -> None:
    world = given(transfer("a", "11:00"), Country(currency="EUR", people=5))
    assert world.online(view, transfer("b", "11:00"), served=True)["country__people"] == 5
    assert world.get(Country, currency="EUR", at="1999-01-01") == Country(currency="EUR", people=5)
    with pytest.raises(SchemaError, match="given item 1, Country: a row without event time"):
        given(late(Country(currency="EUR", people=5), by="1h"))


def test_history_reads_each_row_at_its_own_time() -> None:
    world = given(*(transfer(str(hour), f"{hour}:00", amount=float(hour)) for hour in range(10, 16)))
    requests = [transfer("x", "15:30"), transfer("y", "11:30"), transfer("z", "12:00", sender="eve")]
    rows = world.history(view, requests)
    assert (rows["transfer_id"], rows[str(SENT.n["7d"])]) == (["x", "y", "z"], [6, 2, 0])
    assert rows[str(SENT.last)] == [15.0, 11.0, None]
    listed = world.history([Spend.mean, Spend.n], [{"sender": "ann", "at": t("11:30"), "note": "kept"}])
    assert listed.to_arrow().to_pylist() == [
        {
            "sender": "ann", "at": t("11:30"), "note": "kept", "spend__mean": 10.5,
            "spend__n_10m": 0, "spend__n_1h": 1, "spend__n_7d": 2,
        }
    ]  # fmt: skip


def test_history_as_served_knows_at_each_row_what_had_arrived_by_then() -> None:
    world = given(late(transfer("a", "10:00"), by="2h"), transfer("b", "11:00"))
    requests = [transfer("x", "11:30"), transfer("y", "12:30")]
    assert world.history(view, requests)[str(SENT.n["7d"])] == [2, 2]
    assert world.history(view, requests, served=True)[str(SENT.n["7d"])] == [1, 2]


def test_duplicates_count_once_and_late_ones_not_at_all() -> None:
    world = given(
        transfer("a", "11:00", amount=1.0),
        transfer("a", "11:05", amount=9.0),
        Login(user="ann", lat=1.0, at=t("11:00")),
        late(Login(user="ann", lat=2.0, at=t("09:00")), by="3h"),
        Login(user="ann", lat=3.0, at=t("11:30")),
        Login(user="ann", lat=None, at=t("11:30")),
    )
    row = world.online(view, transfer("b", "12:30"))
    assert (row[SENT.n["7d"]], row[SENT.last]) == (1, 1.0)
    assert (row["sender__last_login__n"], row["sender__last_login__lat"]) == (3, 3.0)


def test_reads_long_before_the_newest_event_are_answered() -> None:
    early = [transfer(f"a{minute}", f"01:{minute:02d}") for minute in range(20)]
    world = given(*early, *(transfer(f"b{hour}", f"{hour}:00") for hour in range(10, 23)))
    assert world.get(Spend, sender="ann", at=t("01:10")).n["10m"] == 10
    assert world.get(Spend, sender="ann", at=t("01:30")).n["1h"] == 20


def test_an_empty_world_has_empty_windows() -> None:
    world = given()
    row = world.online(view, transfer("a", "12:00"))
    assert row[SENT.n["1h"]] == 0
    assert {row[str(SENT.mean)], row[str(Now.usd)], row.age} == {None}
    assert world.get(Fx, currency="EUR") is None


def test_what_does_not_fit_is_refused_with_its_place() -> None:
    wrong: Any = "much"
    with pytest.raises(SchemaError, match='given item 2, Transfer: field "amount": expected float') as caught:
        given(transfer("a", "11:00"), transfer("b", "11:00", amount=wrong))
    assert caught.value.field == "amount"
    with pytest.raises(SchemaError, match="given item 1: expected an event, a table row"):
        given(wrong)
    with pytest.raises(SchemaError, match=r"by='soon'.*is not a duration"):
        late(transfer("a", "11:00"), by="soon")
    large = Large(transfer_id="a", sender="a", receiver="b", currency="EUR", amount=200.0, at=t("11:00"))
    with pytest.raises(SchemaError, match="give the transfer that it comes from"):
        given(large)
    with pytest.raises(SchemaError, match="sender is missing"):
        given().get(Spend, at=t("11:00"))
    with pytest.raises(SchemaError, match="get reads a feature group or a table"):
        given().get(view)  # type: ignore[call-overload]


def test_what_this_version_does_not_compute_is_refused() -> None:
    class Payees(hr.FeatureGroup, key=Transfer.sender):
        paid = hr.sum(Transfer.amount * Fx.usd)

    with pytest.raises(PlanError, match=r"looks Fx\.usd up at each event; compute it in a derived stream first"):
        given(transfer("a", "11:00")).get(Payees, sender="ann", at=t("12:00"))


def test_two_definitions_of_one_name_are_refused() -> None:
    old = transfer("a", "11:00")

    def again() -> hr.FeatureView:
        class Transfer(hr.Event):
            sender: hr.Field[str] = hr.key(User)
            at: hr.Field[datetime] = hr.event_time()

        class Sent(hr.FeatureGroup, key=Transfer.sender):
            n = hr.count(window="1h")

        return hr.FeatureView("again", request=Transfer, features=[Sent])

    with pytest.raises(DefinitionError, match="two different definitions"):
        given(old).online(again(), {"sender": "ann", "at": t("12:00")})


def shifted(reader: Any) -> Any:
    """The reader's `read`, asking one microsecond later than it was told."""
    read = reader.read

    def wrong(self: Any, request: Mapping[str, Column], *rest: Any) -> Any:
        time = request["at"]
        return read(self, {**request, "at": Column(time.dtype, time.values + 1, time.valid)}, *rest)

    return wrong


def disagreement(world: Any, request: Transfer) -> str:
    with pytest.raises(AssertionError) as caught:
        world.online(view, request)
    return str(caught.value)


def test_a_wrong_online_read_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnlineReader, "read", shifted(OnlineReader))
    said = disagreement(given(transfer("a", "11:00"), transfer("b", "12:00")), transfer("c", "12:00"))
    assert "sender__spend__n_10m at 2026-01-02T12:00:00Z, sender='ann', receiver='bob'" in said
    wrong = "1 by online, online after restarts, online of shuffled and repeated input"
    assert "0 by oracle, history" in said
    assert wrong in said


def test_a_wrong_offline_read_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HistoryReader, "read", shifted(HistoryReader))
    said = disagreement(given(transfer("a", "11:00"), transfer("b", "12:00")), transfer("c", "12:00"))
    assert "sender__spend__n_10m" in said
    assert "1 by history, history after restarts, history of shuffled and repeated input" in said


def test_a_restart_that_forgets_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ComputeWorker, "_judge_again", lambda self, name, partition, at, end: None)
    world = given(transfer("a", "11:00"), transfer("a", "11:05"))
    said = disagreement(world, transfer("c", "11:08"))
    assert "1 by oracle, history, online, history of shuffled and repeated input" in said
    assert "2 by history after restarts, online after restarts" in said


def test_the_shuffled_log_is_shuffled_and_holds_everything_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    appended: list[str] = []
    append = Run._append

    def noted(self: Run, arrival: Any, now_us: int) -> None:
        appended.append(arrival.values["transfer_id"])
        append(self, arrival, now_us)

    monkeypatch.setattr(Run, "_append", noted)
    names = [f"{minute:02d}" for minute in range(10)]
    world = given(*(transfer(name, f"11:{name}") for name in names))
    assert world.get(Spend, sender="ann", at=t("11:30")).n["1h"] == 10
    shuffled = appended[20:]
    assert appended[:20] == names * 2
    assert sorted(shuffled) == sorted(names * 2)
    assert list(dict.fromkeys(shuffled)) != names


class Click(hr.Event, dedupe="1h", lateness="2h"):
    click_id: hr.Field[int] = hr.id()
    user: hr.Field[str | None] = hr.key(User)
    x: hr.Field[float | None]
    at: hr.Field[datetime] = hr.event_time()


class Visit(hr.Event, dedupe="1h"):
    visit_id: hr.Field[int] = hr.id()
    user: hr.Field[str] = hr.key(User)
    x: hr.Field[float | None]
    at: hr.Field[datetime] = hr.event_time()


class Clicks(hr.FeatureGroup, key=Click.user):
    n = hr.count(window=["1h", "1d"])
    last, total = hr.last(Click.x), hr.sum(Click.x)


class Visits(hr.FeatureGroup, key=Visit.user):
    n = hr.count(window=["1h", "1d"])
    first, spread = hr.first(Visit.x), hr.std(Visit.x, window="30d")


MINUTES = st.one_of(st.integers(0, 4_000), st.sampled_from((0, 60, 120, 1_440)))
USERS = st.sampled_from(("ann", "bob"))
NUMBERS = st.one_of(st.none(), st.sampled_from((0.0, 0.1, -2.5, 1e16)))


def moment(minutes: int) -> datetime:
    return t("00:00") + timedelta(minutes=minutes)


@st.composite
def items(draw: st.DrawFn) -> Any:
    user, at, x = draw(USERS), moment(draw(MINUTES)), draw(NUMBERS)
    kind = draw(st.sampled_from(("click", "visit", "login", "weather")))
    item: Any
    if kind == "click":
        item = Click(click_id=draw(st.integers(0, 9)), user=draw(st.one_of(st.none(), USERS)), x=x, at=at)
    elif kind == "visit":
        item = Visit(visit_id=draw(st.integers(0, 40)), user=user, x=x, at=at)
    elif kind == "login":
        item = Login(user=user, lat=x, at=at)
    else:
        item = Weather(user=user, rain=x, sky=draw(st.sampled_from((None, "grey"))), taste=[1.0, 2.0], at=at)
    return late(item, by=draw(st.sampled_from(("0s", "1m", "3h", "2d")))) if draw(st.booleans()) else item


@settings(max_examples=25)
@example_of(st.lists(items(), max_size=25), st.lists(st.tuples(USERS, MINUTES), min_size=1, max_size=4), st.booleans())
def test_the_paths_agree_whatever_is_given(some: list[Any], asked: list[tuple[str, int]], served: bool) -> None:
    rows = [{"user": user, "at": moment(minutes)} for user, minutes in asked]
    found = given(*some).history([Clicks, Visits, LastLogin, Weather], rows, served=served)
    assert found["user"] == [user for user, _ in asked]
