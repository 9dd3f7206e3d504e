"""Definitions to plans: what engines get."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.aggregations.layout import layout_of
from headrace.core.errors import DefinitionError, PlanError
from headrace.core.schema import DType
from headrace.core.time import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, US_PER_SECOND
from headrace.features.compile import compile_project
from headrace.features.definition import Definition
from headrace.features.model import Model
from headrace.features.nodes import Call, ColumnRef, Literal
from headrace.features.plan import AggregateSpec, Binding, GroupPlan, KeyPart, ProjectPlan
from headrace.features.plan_json import plan_from_json, plan_to_json
from headrace.features.view import FeatureView
from tests.unit.features.declaring import declare


def definitions(names: dict[str, Any]) -> list[Any]:
    return [
        value
        for value in names.values()
        if isinstance(value, FeatureView | Model) or isinstance(getattr(value, "__definition__", None), Definition)
    ]


def compiled(source: str) -> ProjectPlan:
    return compile_project(definitions(declare(source)))


def group(body: str, keywords: str = "key=Transfer.sender", before: str = "") -> GroupPlan:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return compiled(f"{before}\nclass Group(hr.FeatureGroup, {keywords}):\n{lines}\n").groups["group"]


def only(body: str, keywords: str = "key=Transfer.sender") -> AggregateSpec:
    (spec,) = group(body, keywords).aggregates
    return spec


@pytest.mark.parametrize(
    ("window", "hop_us"),
    [
        ("10m", 1),
        ("1h", 1),
        ("2h", 5 * US_PER_MINUTE),
        ("1d", 5 * US_PER_MINUTE),
        ("25h", US_PER_HOUR),
        ("30d", US_PER_HOUR),
        ("31d", US_PER_DAY),
    ],
)
def test_default_hops(window: str, hop_us: int) -> None:
    assert only(f'n = hr.count(window="{window}")').hop_us == hop_us


def test_hops_and_resolution() -> None:
    assert only('n = hr.count(window="7d", hop="exact")').hop_us == 1
    assert only('n = hr.count(window="1h", hop="10m", delay="5m")').delay_us == 5 * US_PER_MINUTE
    hot = "key=Transfer.sender, resolution='1s'"
    assert only('n = hr.count(window="10m")', hot).hop_us == US_PER_SECOND
    assert only('n = hr.count(window="7d", hop="exact")', hot).hop_us == US_PER_SECOND
    lifetime = only("n = hr.count()", hot)
    assert (lifetime.window_us, lifetime.hop_us) == (None, US_PER_SECOND)
    coarse = "key=Transfer.sender, resolution='30m'"
    assert only('n = hr.count(window="1d")', coarse).hop_us == 30 * US_PER_MINUTE


@pytest.mark.parametrize(
    ("feature", "dtype", "takes_input"),
    [
        ("hr.count()", DType.INT, False),
        ("hr.sum(Transfer.amount)", DType.FLOAT, True),
        ("hr.sum(Transfer.count)", DType.INT, True),
        ("hr.mean(Transfer.count)", DType.FLOAT, True),
        ("hr.var(Transfer.amount)", DType.FLOAT, True),
        ("hr.std(Transfer.count)", DType.FLOAT, True),
        ("hr.min(Transfer.count)", DType.INT, True),
        ("hr.max(Transfer.at)", DType.TIMESTAMP, True),
        ("hr.max(Transfer.at - Transfer.at)", DType.DURATION, True),
        ("hr.first(Transfer.amount)", DType.FLOAT, True),
        ("hr.last(Transfer.member)", DType.BOOL, True),
        ("hr.share(Transfer.amount > 1)", DType.FLOAT, True),
        ("hr.any(Transfer.member)", DType.BOOL, True),
        ("hr.all(Transfer.member)", DType.BOOL, True),
        ('hr.rate(window="1d")', DType.FLOAT, False),
        ('hr.rate(Transfer.count, window="1d")', DType.FLOAT, True),
        ('hr.quantile(Transfer.count, 0.5, window="1d")', DType.FLOAT, True),
        ('hr.skewness(Transfer.count, window="1d")', DType.FLOAT, True),
        ('hr.n_unique(Transfer.member, window="1d")', DType.INT, True),
        ("hr.time_since_last()", DType.DURATION, False),
        ("hr.time_since_first()", DType.DURATION, False),
    ],
)
def test_types_and_inputs(feature: str, dtype: DType, takes_input: bool) -> None:
    spec = only(f"x = {feature}")
    assert spec.kind == feature[3:].partition("(")[0]
    assert spec.dtype is dtype
    assert spec.input == (0 if takes_input else None)


def test_units_and_shares_are_part_of_a_version() -> None:
    hourly, daily = only('x = hr.rate(window="1d")'), only('x = hr.rate(window="1d", per="1d")')
    assert hourly.params == (("unit_us", US_PER_HOUR),)
    assert daily.params == (("unit_us", US_PER_DAY),)
    low, high = (only(f'x = hr.quantile(Transfer.amount, {q}, window="1d")') for q in (0.1, 0.9))
    assert (low.params, high.params) == ((("q", 0.1),), (("q", 0.9),))
    assert len({spec.version for spec in (hourly, daily, low, high)}) == 4


def test_options_of_aggregations_are_part_of_a_version_unless_they_are_the_default() -> None:
    plain, same = only("x = hr.var(Transfer.amount)"), only("x = hr.var(Transfer.amount, population=False)")
    assert plain == same
    assert plain.params == ()
    assert only("x = hr.std(Transfer.amount, population=True)").params == (("ddof", 0),)
    assert only('x = hr.n_unique(Transfer.count, window="1d", cap=1000)').params == ()
    assert only('x = hr.n_unique(Transfer.count, window="1d", cap=5)').params == (("cap", 5),)


def test_a_decayed_aggregation_looks_64_half_lives_back_in_steps_of_one() -> None:
    plan = group(
        'x = hr.decayed_sum(Transfer.amount, halflife=["90m", "1d"])\ny = hr.decayed_count(halflife="1h", window="2h")'
    )
    assert [(spec.name, spec.window_us, spec.hop_us, spec.params) for spec in plan.aggregates] == [
        ("x_90m", 96 * US_PER_HOUR, 90 * US_PER_MINUTE, (("halflife_us", 90 * US_PER_MINUTE),)),
        ("x_1d", 64 * US_PER_DAY, US_PER_DAY, (("halflife_us", US_PER_DAY),)),
        ("y", 2 * US_PER_HOUR, US_PER_HOUR, (("halflife_us", US_PER_HOUR),)),
    ]
    assert {spec.dtype for spec in plan.aggregates} == {DType.FLOAT}


def test_lists_and_maps() -> None:
    plan = group(
        'a = hr.first_n(Transfer.count, 3, window="1d")\nb = hr.top_k(Transfer.member, 2, window="1d", cap=50)\n'
        'c = hr.histogram(Transfer.amount, window="1d")\nd = hr.most_frequent(Transfer.at, window="1d")\n'
        'e = hr.mean(Transfer.count, by=Transfer.member, window=["1h", "1d"])\n'
        "f = hr.mean(Transfer.count, window='1h')\ng = c.is_null()"
    )
    assert [(spec.name, spec.dtype, spec.params, spec.by) for spec in plan.aggregates] == [
        ("a", DType.LIST_INT, (("n", 3),), None),
        ("b", DType.LIST_BOOL, (("cap", 50), ("k", 2)), None),
        ("c", DType.MAP_FLOAT_INT, (), None),
        ("d", DType.TIMESTAMP, (), None),
        ("e_1h", DType.MAP_BOOL_FLOAT, (), 1),
        ("e_1d", DType.MAP_BOOL_FLOAT, (), 1),
        ("f", DType.FLOAT, (), None),
    ]
    assert plan.aggregates[4].version != plan.aggregates[6].version


def test_a_ratio_is_the_quotient_of_finished_values() -> None:
    plan = group(
        'n = hr.count(window=["1h", "1d"])\nbig = hr.count(window=["1h", "1d"], where=Transfer.amount > 100)\n'
        "share = hr.ratio(big, n)\nlast = hr.ratio(n['1h'], big['1d'])"
    )
    int_ = DType.INT
    assert {spec.name: spec.node for spec in plan.derived} == {
        "share_1h": Call("div", (ColumnRef("big_1h", int_), ColumnRef("n_1h", int_)), DType.FLOAT),
        "share_1d": Call("div", (ColumnRef("big_1d", int_), ColumnRef("n_1d", int_)), DType.FLOAT),
        "last": Call("div", (ColumnRef("n_1h", int_), ColumnRef("big_1d", int_)), DType.FLOAT),
    }


def test_an_approximate_count_of_texts_reads_their_hashes() -> None:
    plan = group(
        'x = hr.approx_n_unique(Transfer.channel, window="1d")\ny = hr.approx_n_unique(Transfer.count, window="1d")'
    )
    channel = ColumnRef("channel", DType.STRING)
    assert [(spec.node, spec.dtype) for spec in plan.inputs] == [
        (Call("xxh64", (channel,), DType.INT), DType.INT),
        (ColumnRef("count", DType.INT), DType.INT),
    ]


def test_inputs_are_shared_and_named_locally() -> None:
    plan = group(
        'n = hr.count(window=["1h", "1d"], where=Transfer.amount > 100)\n'
        "big = hr.share(Transfer.amount > 100)\n"
        "total = hr.sum(Transfer.amount, where=Transfer.member, doc='money')\n"
        "per = total / n['1d']\n"
        "twice = per * 2"
    )
    amount = ColumnRef("amount", DType.FLOAT)
    big = Call("gt", (amount, Literal(100, DType.INT)), DType.BOOL)
    assert [spec.node for spec in plan.inputs] == [big, amount, ColumnRef("member", DType.BOOL)]
    assert [(spec.name, spec.input, spec.where) for spec in plan.aggregates] == [
        ("n_1h", None, 0),
        ("n_1d", None, 0),
        ("big", 0, None),
        ("total", 1, 2),
    ]
    assert plan.order == ("n_1h", "n_1d", "big", "total", "per", "twice")
    assert plan.derived[0].node == Call(
        "div", (ColumnRef("total", DType.FLOAT), ColumnRef("n_1d", DType.INT)), DType.FLOAT
    )
    assert plan.derived[1].node == Call("mul", (ColumnRef("per", DType.FLOAT), Literal(2, DType.INT)), DType.FLOAT)
    assert plan.aggregates[3].doc == "money"


def test_derived_streams_are_inlined() -> None:
    before = (
        "class Paid(Transfer, where=Transfer.channel != 'test'):\n    twice = Transfer.amount * 2\n"
        "class Large(Paid, where=Paid.twice > 10):\n    more = Paid.twice + 1\n"
    )
    plan = group("x = hr.sum(Large.more)", "key=Large.sender, where=~Large.member", before)
    amount = ColumnRef("amount", DType.FLOAT)
    twice = Call("mul", (amount, Literal(2, DType.INT)), DType.FLOAT)
    real = Call("ne", (ColumnRef("channel", DType.STRING), Literal("test", DType.STRING)), DType.BOOL)
    large = Call("gt", (twice, Literal(10, DType.INT)), DType.BOOL)
    other = Call("not", (ColumnRef("member", DType.BOOL),), DType.BOOL)
    assert plan.stream == "transfer"
    assert plan.where == Call("and", (Call("and", (real, large), DType.BOOL), other), DType.BOOL)
    assert plan.inputs[0].node == Call("add", (twice, Literal(1, DType.INT)), DType.FLOAT)


def test_keys() -> None:
    plan = group("n = hr.count()", "key=(Transfer.sender, Transfer.merchant, Transfer.channel)")
    assert plan.key == (
        KeyPart("sender", DType.STRING, "user"),
        KeyPart("merchant", DType.STRING, "merchant"),
        KeyPart("channel", DType.STRING, None),
    )
    assert group("n = hr.count()", "key=Transfer.transfer_id").key[0].entity == "transfer"
    copied = group("n = hr.count()", "key=Copy.who", "class Copy(Transfer):\n    who = Transfer.receiver\n")
    assert copied.key == (KeyPart("receiver", DType.STRING, "user"),)


def test_streams() -> None:
    plan = compiled(
        """\
        class Base(hr.Event, abstract=True):
            at: hr.Field[datetime] = hr.event_time()
        class Login(Base, name="sign_in", owner="me", lateness="2d", dedupe="3d", future="1m"):
            "Somebody signs in."
            user: hr.Field[str] = hr.key(User)
            code: hr.Field[int] = hr.id()
            weight: hr.Field[float] = hr.field("kg", default=1)
        """
    )
    assert sorted(plan.streams) == ["sign_in", "transfer"]
    stream = plan.streams["sign_in"]
    assert [field.name for field in stream.schema] == ["at", "user", "code", "weight"]
    assert (stream.schema.time_field, stream.schema.id_field, stream.partition_key) == ("at", "code", ("code",))
    assert (stream.lateness_us, stream.dedupe_us, stream.future_us) == (2 * US_PER_DAY, 3 * US_PER_DAY, US_PER_MINUTE)
    assert (stream.owner, stream.doc) == ("me", "Somebody signs in.")
    weight = stream.schema["weight"]
    assert (weight.default, type(weight.default), weight.doc) == (1.0, float, "kg")
    merchant = plan.streams["transfer"].schema["merchant"]
    assert (merchant.nullable, merchant.entity) == (True, "merchant")
    assert plan.streams["transfer"].future_us == US_PER_HOUR


def test_tables() -> None:
    plan = compiled(
        """\
        class Rate(hr.Table, source=hr.SQL("select 1", on="bank"), schedule="15m", ttl="1h", delay="2h", tags=["x"],
                   checks=[hr.RowCount(min=1), hr.NullShare("usd", max=0.5), hr.UniqueKey(),
                           hr.UniqueKey("currency"), hr.InRange("usd", min=0, max=9)]):
            currency: hr.Field[str] = hr.key(hr.Entity("currency"))
            usd: hr.Field[float]
            at: hr.Field[datetime] = hr.event_time()
        """
    ).tables["rate"]
    assert (plan.query, plan.on, plan.schedule) == ("select 1", "bank", "15m")
    assert (plan.ttl_us, plan.delay_us, plan.tags) == (US_PER_HOUR, 2 * US_PER_HOUR, ("x",))
    assert [(check.kind, dict(check.params)) for check in plan.checks] == [
        ("rows", {"min": 1, "max": None}),
        ("null_share", {"column": "usd", "max": 0.5}),
        ("unique", {"columns": ("currency", "at")}),
        ("unique", {"columns": ("currency",)}),
        ("in_range", {"column": "usd", "min": 0, "max": 9}),
    ]
    assert [field.name for field in plan.features] == ["usd"]


VIEW = """\
class Now(hr.OnRequest):
    hour = Transfer.at.hour("Europe/Berlin")
    night = hour.is_in([0, 1, 2]) | (hour > 22)
    ratio = Transfer.amount / Spend.mean
    rate = ratio * Transfer.at.hour()
    then = (Transfer.at - Transfer.at).hours()
view = hr.FeatureView("transfer", request=Transfer, owner="me", features=[
    Now, Spend.of(Transfer.receiver), Profile.of(Transfer.sender).age, Transfer.channel])
"""


def test_views() -> None:
    plan = compiled(VIEW).views["transfer"]
    assert plan.bindings == (
        Binding("spend", False, "", ("sender",)),
        Binding("spend", False, "receiver__", ("receiver",)),
        Binding("profile", True, "sender__", ("sender",)),
    )
    assert [(column.name, column.origin, column.hidden, column.calendar) for column in plan.columns] == [
        ("at", "request", True, False),
        ("now__hour", "computed", False, True),
        ("now__night", "computed", False, True),
        ("amount", "request", True, False),
        ("spend__mean", "feature", True, False),
        ("now__ratio", "computed", False, False),
        ("now__rate", "computed", False, False),
        ("now__then", "computed", False, False),
        ("receiver__spend__n_1h", "feature", False, False),
        ("receiver__spend__n_1d", "feature", False, False),
        ("receiver__spend__mean", "feature", False, False),
        ("sender__profile__age", "feature", False, False),
        ("channel", "request", False, False),
    ]
    by_name = {column.name: column for column in plan.columns}
    assert (by_name["receiver__spend__n_1h"].binding, by_name["receiver__spend__n_1h"].feature) == (1, "n_1h")
    assert by_name["now__ratio"].node == Call(
        "div", (ColumnRef("amount", DType.FLOAT), ColumnRef("spend__mean", DType.FLOAT)), DType.FLOAT
    )
    assert len(plan.visible) == 10


def test_keys_bind_by_entity_and_name() -> None:
    plan = compiled(
        """\
        class Pair(hr.FeatureGroup, key=(Transfer.receiver, Transfer.merchant)):
            n = hr.count()
        class Sales(hr.FeatureGroup, key=Transfer.merchant):
            n = hr.count()
        class Channel(hr.FeatureGroup, key=Transfer.channel):
            n = hr.count()
        class Sold(hr.FeatureGroup, key=Transfer.transfer_id):
            n = hr.count()
        class Query(hr.Event):
            of_transfer: hr.Field[str] = hr.key(Transfer)
            shop: hr.Field[str] = hr.key(Merchant)
            receiver: hr.Field[str] = hr.key(User)
            other: hr.Field[str] = hr.key(User)
            channel: hr.Field[str]
            at: hr.Field[datetime] = hr.event_time()
        view = hr.FeatureView("query", request=Query, features=[Pair, Sales, Channel, Sold])
        """
    ).views["query"]
    assert [binding.request_keys for binding in plan.bindings] == [
        ("receiver", "shop"),
        ("shop",),
        ("channel",),
        ("of_transfer",),
    ]


def test_models() -> None:
    model = compiled(
        """\
        class Answer(hr.Event):
            about: hr.Field[str] = hr.key(Transfer)
            score: hr.Field[float]
            at: hr.Field[datetime] = hr.event_time()
        class Estimator:
            def fit(self, X, y): ...
        view = hr.FeatureView("transfer", request=Transfer, features=[Spend])
        good = hr.Model("good", view=view, label=hr.Label(Answer.score > 0.5, wait="2h", default=False),
            estimator=Estimator(), train_on="30d", owner="me",
            retrain=[hr.Every("1d"), hr.OnDrift(psi=0.2), hr.OnDecay(drop=0.05)],
            promote=hr.Better(on="7d", confidence=0.9, no_worse_in=[Transfer.channel],
                              steps=[hr.Shadow("1h"), hr.Canary(0.1, "2h")]))
        """
    ).models["good"]
    label = model.label
    assert (label.stream, label.join_field, label.dtype, label.wait_us) == (
        "answer",
        "about",
        DType.BOOL,
        2 * US_PER_HOUR,
    )
    assert (label.has_default, label.default) == (True, False)
    assert [(trigger.kind, trigger.params) for trigger in model.retrain] == [
        ("every", (("every_us", US_PER_DAY),)),
        ("on_drift", (("psi", 0.2),)),
        ("on_decay", (("drop", 0.05),)),
    ]
    assert model.promote is not None
    assert model.promote.no_worse_in == ("channel",)
    assert model.promote.steps == (("shadow", US_PER_HOUR), ("canary", (0.1, 2 * US_PER_HOUR)))
    assert (model.train_on_us, model.view, model.owner) == (30 * US_PER_DAY, "transfer", "me")


def test_every_aggregation_but_a_rate_may_be_over_the_lifetime() -> None:
    body = """
often = hr.most_frequent(Transfer.count)
shops = hr.mean(Transfer.amount, by=Transfer.count)
middle = hr.quantile(Transfer.amount, 0.5)
lean = hr.skewness(Transfer.amount)
sizes = hr.approx_n_unique(Transfer.count)
who = hr.min(Transfer.receiver)
"""
    assert [spec.window_us for spec in group(body).aggregates] == [None] * 6
    with pytest.raises(DefinitionError, match=r"hr\.rate is per unit of time over a window; name one"):
        group("pace = hr.rate()")


NOT_YET = {
    "maps at events": (
        """\
        class G(hr.FeatureGroup, key=Transfer.sender):
            counts = hr.histogram(Transfer.count, window="1d")
        class P(Transfer):
            counts = G.counts
        class H(hr.FeatureGroup, key=P.sender):
            n = hr.count(where=~P.counts.is_null())
        """,
        [
            (
                "features.py:25 P.counts: is a dict[int, int], and an event has no column of lists or maps; look a "
                "single value up, such as one of hr.most_frequent or hr.last"
            )
        ],
    ),
    "tables in groups": (
        """\
        class G(hr.FeatureGroup, key=Transfer.sender):
            mean = hr.mean(Profile.of(Transfer.sender).age)
        """,
        [
            (
                "features.py:23 G.mean: looks Profile.age up at each event; compute it in a derived stream first: "
                "class Derived(Transfer): age = Profile.age"
            )
        ],
    ),
    "computed keys": (
        """\
        class P(Transfer):
            who = Transfer.channel.fill_null("x")
        class G(hr.FeatureGroup, key=P.who):
            n = hr.count()
        """,
        ['features.py:24 G: key "who" is computed; say what it names: who = (...).as_key(Entity)'],
    ),
    "keys of keys at one request": (
        """\
        class Shop(hr.Table):
            merchant: hr.Field[str] = hr.key(Merchant)
            country: hr.Field[str]
        class Country(hr.Table):
            country: hr.Field[str] = hr.key(hr.Entity("country"))
            risk: hr.Field[float]
        class P(Transfer):
            country = Shop.country.as_key(hr.Entity("country"))
        view = hr.FeatureView("v", request=P, features=[Country])
        """,
        [
            (
                'features.py:30 view "v": Country.risk is looked up by P.country, which is computed or looked up '
                "itself; a key of a key at one request is not computed by this version yet: derive a stream that looks "
                "country up, and read from that"
            )
        ],
    ),
}  # fmt: skip


def test_a_list_is_one_input_of_its_length_or_a_text() -> None:
    names = declare("""\
        class Seen(hr.Event):
            user: hr.Field[str] = hr.key(User)
            taste: hr.Field[list[float]] = hr.field(size=64)
            at: hr.Field[datetime] = hr.event_time()
        class Copied(Seen):
            again = Seen.taste
        class G(hr.FeatureGroup, key=Copied.user):
            total, mean = hr.sum(Copied.again, window=["1h", "1d"]), hr.mean(Copied.taste)
            last = hr.last(Copied.again)
        """)
    plan = compile_project([names["G"]]).groups["g"]
    assert [(spec.dtype, spec.size) for spec in plan.inputs] == [(DType.LIST, 64), (DType.STRING, None)]
    assert [spec.dtype for spec in plan.aggregates] == [DType.LIST] * 4
    assert plan_from_json(plan_to_json(plan), {}) == plan
    layout = layout_of(plan)
    assert (layout.width, len(layout.names)) == (65, 3 * 64 + 1)
    assert layout.objects == ("last", "total_1h", "total_1d", "mean")


@pytest.mark.parametrize("what", NOT_YET)
def test_what_this_version_declares_but_does_not_compute(what: str) -> None:
    source, messages = NOT_YET[what]
    with pytest.raises(PlanError) as raised:
        compiled(source)
    assert str(raised.value).splitlines() == messages


def test_two_definitions_of_one_name_are_refused() -> None:
    first, second = declare(""), declare("\n")
    with pytest.raises(
        DefinitionError, match=r'two different definitions of one stream name, "transfer": features\.py:4'
    ):
        compile_project([first["Transfer"], second["Transfer"]])
    assert list(compile_project([first["Spend"], first["Spend"], first["Transfer"]]).groups) == ["spend"]


def test_what_is_read_is_part_of_the_plan() -> None:
    names = declare(VIEW)
    plan = compile_project([names["view"]])
    assert (list(plan.streams), list(plan.groups), list(plan.tables)) == (["transfer"], ["spend"], ["profile"])


def test_no_definition() -> None:
    with pytest.raises(DefinitionError, match="int is no definition"):
        compile_project([int])
