"""Plans of derived streams: which are logged, under which version, and what is read at each of their events."""

from __future__ import annotations

from typing import Any

from headrace.core.schema import DType
from headrace.features.compile import compile_project
from headrace.features.nodes import Call, ColumnRef, Literal
from headrace.features.plan import WHERE, Binding, DerivedPlan, ProjectPlan
from tests.unit.features.declaring import declare, error

PRICED = """\
class Fx(hr.Table):
    channel: hr.Field[str] = hr.key(hr.Entity("channel"))
    usd: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()
class Paid(Transfer, where=Transfer.amount > 1):
    usd = Transfer.amount * Fx.of(Transfer.channel).usd
class PaidBy(hr.FeatureGroup, key=Paid.sender):
    total = hr.sum(Paid.usd, window="1d")
"""


def compiled(source: str, *edits: tuple[str, str]) -> ProjectPlan:
    names: dict[str, Any] = declare(source)
    return compile_project([value for value in names.values() if hasattr(value, "__definition__")])


def paid(source: str = PRICED) -> DerivedPlan:
    return next(plan for plan in compiled(source).derived.values() if plan.name == "paid")


def test_a_stream_that_looks_something_up_is_logged_under_its_version() -> None:
    plan = compiled(PRICED)
    (derived,) = plan.derived.values()
    assert derived.topic == f"paid-{derived.version}" == derived.stream.name
    assert (derived.source, derived.computed, plan.root(derived.topic)) == ("transfer", ("usd",), "transfer")
    assert derived.view.bindings == (Binding("fx", True, "channel__", ("channel",)),)
    assert [column.name for column in derived.view.visible] == ["usd", WHERE]
    assert plan.stream(derived.topic).schema["usd"].dtype is DType.FLOAT
    assert plan.stream(derived.topic).schema["usd"].nullable
    assert derived.stream.schema.id_field == "transfer_id"
    group = plan.groups["paid_by"]
    # What the stream leaves out and computes is settled when it is derived.
    assert (group.stream, group.where, group.inputs[0].node) == (derived.topic, None, ColumnRef("usd", DType.FLOAT))
    assert list(plan.topics()) == ["transfer", derived.topic]


def test_streams_that_only_filter_and_compute_are_not_logged() -> None:
    plan = compiled(
        """\
        class Large(Transfer, where=Transfer.amount > 1):
            half = Transfer.amount / 2
            who = Transfer.sender
        class ByWho(hr.FeatureGroup, key=Large.who):
            half = hr.sum(Large.half)
        """
    )
    assert not plan.derived
    group = plan.groups["by_who"]
    assert (group.stream, group.key[0].name, group.key[0].entity) == ("transfer", "sender", "user")
    assert group.where == Call("gt", (ColumnRef("amount", DType.FLOAT), Literal(1, DType.INT)), DType.BOOL)


def test_a_computed_key_makes_a_stream_logged() -> None:
    plan = compiled(
        """\
        class Named(Transfer):
            who = Transfer.channel.fill_null("x").as_key(User)
        class ByWho(hr.FeatureGroup, key=Named.who):
            n = hr.count()
        """
    )
    (derived,) = plan.derived.values()
    assert (derived.computed, derived.view.bindings) == (("who",), ())
    assert [(part.name, part.entity) for part in plan.groups["by_who"].key] == [("who", "user")]


def test_a_stream_between_is_part_of_the_one_that_is_logged() -> None:
    derived = paid(
        """\
        class Large(Transfer, where=Transfer.amount > 1):
            half = Transfer.amount / 2
        class Paid(Large, where=Spend.n["1h"] > 3):
            mean = Spend.mean - Large.half
        class Small(Paid, where=Paid.mean < 0): ...
        class BySmall(hr.FeatureGroup, key=Small.sender):
            n = hr.count(where=Small.half > 7)
        """
    )
    assert derived.source == "transfer"
    assert derived.computed == ("half", "mean")
    condition = next(column.node for column in derived.view.columns if column.name == WHERE)
    assert isinstance(condition, Call)
    assert condition.op == "and"


def test_each_stream_stands_after_what_it_reads() -> None:
    plan = compiled(
        PRICED
        + """\
class Rich(Transfer):
    total = PaidBy.total
class RichBy(hr.FeatureGroup, key=Rich.sender):
    n = hr.count(where=Rich.total > 5)
    share = n / PaidBy.total
class Last(Paid):
    n = RichBy.n
"""
    )
    assert [derived.name for derived in plan.derived.values()] == ["paid", "rich", "last"]
    last = list(plan.derived.values())[-1]
    assert last.source == next(iter(plan.derived))
    (read,) = plan.groups["rich_by"].derived[0].reads
    assert (read.name, read.source, read.feature, read.keys) == ("paid_by__total", "paid_by", "total", ("sender",))


def test_the_version_is_of_what_is_computed_and_read() -> None:
    first = paid().version
    assert paid(PRICED.replace("Transfer.amount * ", "2.0 * Transfer.amount * ")).version != first
    assert paid(PRICED.replace("> 1", "> 2")).version != first
    assert (
        paid(PRICED.replace("usd: hr.Field[float]\n", "usd: hr.Field[float]\n    eur: hr.Field[float]\n")).version
        != first
    )
    assert paid(PRICED.replace("class Paid(Transfer,", 'class Paid(Transfer, owner="me",')).version == first
    before, after = compiled(PRICED), compiled(PRICED.replace("> 1", "> 2"))
    assert before.groups["paid_by"].version != after.groups["paid_by"].version
    assert before.groups["spend"].version == after.groups["spend"].version


def test_a_key_that_is_looked_up_is_looked_up_in_a_stream_of_its_own() -> None:
    assert error(
        """\
        class Shop(hr.Table):
            merchant: hr.Field[str] = hr.key(Merchant)
            country: hr.Field[str]
        class Country(hr.Table):
            country: hr.Field[str] = hr.key(hr.Entity("country"))
            risk: hr.Field[float]
        class P(Transfer):
            country = Shop.country.as_key(hr.Entity("country"))
            risk = Country.risk
        """
    ) == (
        "@9 P.risk: Country cannot be looked up: no field of Transfer is a key of country; declare one, or bind "
        "another field with Country.of(...)"
    )
