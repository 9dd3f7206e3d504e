"""A wrong class is refused when it is stated: all that is wrong with it, each with its line and its cure."""

from __future__ import annotations

import textwrap

import pytest

from headrace.core.errors import DefinitionError
from headrace.features.group import instance_of
from tests.unit.features.declaring import declare, error, errors


def test_all_problems_of_a_class_at_once() -> None:
    assert errors(
        """\
        class Bad(hr.FeatureGroup, key=Transfer.sender):
            total = hr.sum(Transfer.amount, window="1h", hop="7m")
            words = hr.mean(Transfer.channel)
            early = hr.count(window="1h", delay="-5m")
            nothing = hr.mean(Transfer.amout)
            Big = hr.count()
        """
    ) == [
        "@3 Bad.words: hr.mean does not take str; it takes float, int, list[float]",
        '@5 Bad.nothing: Transfer has no column "amout"; did you mean "amount"?',
        '@6 Bad.Big: name "Big" must match [a-z][a-z0-9_]*',
        '@2 Bad.total: hop "7m" does not divide window "1h"; use "5m", "10m" or hop="exact"',
        '@4 Bad.early: delay "-5m" is negative: a feature cannot know the future; use "0s" or longer',
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('x = hr.sum(Transfer.amount, window="1h", hop="7m")', 'hop "7m" does not divide window "1h"; use "5m", "10m"'),
        ('x = hr.count(window="61m", hop="1s")', None),
        ('x = hr.count(window="61m")', 'the default hop "5m" does not divide window "61m"; use "1m" or hop="exact"'),
        ('x = hr.count(window="61m", hop="exact")', None),
        ('x = hr.count(window="31d")', None),
        ('x = hr.count(window="1h", delay="-5m")', 'delay "-5m" is negative'),
        ('x = hr.count(window="soon")', '"soon" is not a duration'),
        ("x = hr.count(window=3600)", 'window=3600: write durations as texts'),
        ('x = hr.count(window="1h", delay=5)', 'x: delay=5: write durations as texts'),
        ("x = hr.count(Transfer.amount)", "takes no column; its values are hr.count(where=~amount.is_null())"),
        ("x = hr.count(where=Transfer.member & Transfer.amount > 1)", "put comparisons in parentheses: (a > 1) & (b"),
        ('n = hr.count(window=["1h", "2h"])\n    x = n / 2', 'name one of its windows, such as ["1h"]'),
        ('n = hr.count(window=["1h", "2h"])\n    x = 2 * n["1h"] - n', 'over ["1h"], ["2h"] (Family) cannot'),
        ('x = hr.count(hop="5m")', "a hop needs a window"),
        ('x = hr.count(window="0s")', "longer than nothing"),
        ('x = hr.count(windw="1h")', "hr.count has no option windw="),
        ("x = hr.mean(Transfer.channel)", "hr.mean does not take str"),
        ("x = hr.rate()", 'hr.rate is per unit of time over a window; name one, such as window="1d"'),
        ('x = hr.rate(Transfer.amount, per="1h")', "hr.rate is per unit of time over a window; name one"),
        ('x = hr.rate(window="1d", per="often")', 'hr.rate: per="often" is not a duration'),
        ('x = hr.rate(window="1d", per=3600)', "hr.rate: per=3600: write a duration as a text"),
        ('x = hr.rate(window="1d", per="0s")', 'hr.rate: per="0s" must be longer than nothing and at most 100 years'),
        ('x = hr.rate(window="1d", per="36526d")', "must be longer than nothing and at most 100 years"),
        ('x = hr.rate(Transfer.channel, window="1d")', "hr.rate does not take str"),
        ('x = hr.rate(Transfer.amount, window=["1h", "1d"], per="36525d")', None),
        ('x = hr.quantile(Transfer.amount, 95, window="1d")', "hr.quantile takes a share from 0 to 1, such as 0.95"),
        ('x = hr.quantile(Transfer.amount, True, window="1d")', "a share from 0 to 1, such as 0.95, not True"),
        ('x = hr.quantile(Transfer.amount, float("nan"), window="1d")', "a share from 0 to 1, such as 0.95, not nan"),
        ('x = hr.quantile(Transfer.amount, "half", window="1d")', "a share from 0 to 1, such as 0.95, not 'half'"),
        ('x = hr.quantile(Transfer.amount, 1 / 3, window="1d")', "at most 9 decimals; write 0.333333333 instead of"),
        ('x = hr.quantile(Transfer.count, 1, window="1d")', None),
        ('x = hr.n_unique(Transfer.count, window="1d", cap=0)', "cap= is a number of different values, at"),
        ('x = hr.n_unique(Transfer.count, window="1d", cap=True)', "at least 1, not True"),
        ('x = hr.decayed_sum(Transfer.amount, halflife="often")', 'hr.decayed_sum: halflife="often" is not a duration'),
        ('x = hr.decayed_count(halflife="0s")', 'hr.decayed_count: halflife="0s" must be longer than nothing'),
        ('x = hr.decayed_mean(Transfer.channel, halflife="1h")', "hr.decayed_mean does not take str"),
        ('x = hr.decayed_count(halflife="1h", hop="5m")', 'no option hop=; its hop is the half-life, "1h"'),
        ('x = hr.decayed_count(halflife="1h", window="65h")', 'longer than 64 half-lives of "1h"'),
        ('x = hr.decayed_count(halflife="1h", window="90m")', 'hop "1h" does not divide window "90m"'),
        ('x = hr.decayed_count(halflife="1h", window=5)', "write durations as texts"),
        ('x = hr.decayed_count(halflife=["1h", "1 h"])', 'the half-life "1h" stands there twice'),
        ('x = hr.decayed_count(halflife=["1h", "1d"], window="7d")', '"7d" is longer than 64 half-lives of "1h"'),
        ('x = hr.decayed_count(halflife=["1h", "1d"], window="1d", delay="5m")', None),
        ('x = hr.first_n(Transfer.count, 0, window="1d")', "hr.first_n: n is how many values, from 1 to 1,000, not 0"),
        ('x = hr.top_k(Transfer.count, 1001, window="1d")', "k is how many values, from 1 to 1,000, not 1001"),
        ('x = hr.last_n(Transfer.count, "2", window="1d")', "from 1 to 1,000, not '2'"),
        ('x = hr.top_k(Transfer.count, 3, window="1d", cap=0.5)', "cap= is a number of different values"),
        ('x = hr.count(by=Transfer.amount, window="1d")', "by= does not take float, it has no exact equality"),
        ('x = hr.count(by=Transfer.amout, window="1d")', 'Transfer has no column "amout"'),
        ('x = hr.sum(Transfer.channel, by=Transfer.member, window="1d")', "hr.sum does not take str"),
        ('x = hr.sum(Transfer.count, by=Transfer.member, window=["1h", "1d"])', None),
        ('x = hr.histogram(Transfer.count, window="1d")\n    y = x == x', "does not take dict[int, int]"),
        ('x = hr.last_n(Transfer.amount, 3, window="1d")\n    y = x.cosine(x)', "does not take list[float]"),
        ('a = hr.count(window="1h")\n    b = hr.ratio(a, Transfer.amount)', "Transfer.amount is a column of events"),
        ('a = hr.count(window=["1h"])\n    b = hr.count()\n    c = hr.ratio(a, b)', "of a family and one feature"),
        (
            'a = hr.count(window=["1h"])\n    b = hr.count(window=["1d"])\n    c = hr.ratio(a, b)',
            "hr.ratio of families over other windows: 1h, and 1d",
        ),
        ('a = hr.count()\n    b = hr.any(Transfer.member)\n    c = hr.ratio(a, b)', "does not take int and bool"),
        ('x = hr.quantile(Transfer.channel, 0.5, window="1d")', "hr.quantile does not take str"),
        ("x = hr.sum(Transfer.member)", "hr.sum does not take bool; the share of true ones is hr.share"),
        ("x = hr.share(Transfer.amount)", "hr.share does not take float; it takes a condition"),
        ("x = hr.max(Transfer.member)", "hr.max does not take bool"),
        ("x = hr.count(where=Transfer.amount)", "where= takes a condition, but this is float"),
        ("x = hr.mean(Transfer.amout)", 'Transfer has no column "amout"; did you mean "amount"?'),
        ("x = hr.sum(Transfer.channel + 1)", "+ does not take str and int"),
        ("x = hr.sum(Transfer.amount.hour())", ".hour() does not take float"),
        ('x = hr.last(Transfer.at.hour("Mars/Base"))', '"Mars/Base" is no time zone'),
        ("x = hr.mean(hr.sum(Transfer.amount))", "an aggregation of an aggregation"),
        ("x = hr.mean(Spend.mean)", None),
        ("x = hr.mean(Profile.age)", "several fields of Transfer; write Profile.of(Transfer.sender) or Profile.of("),
        ("x = Transfer.amount * 2", "Transfer.amount is a column of events; aggregate it first, such as hr.last"),
        ("x = hr.count() / hr.count(window='1h')", "hr.count(...) needs a line and a name of its own"),
        ("x = hr.count()\n    x = hr.count(window='1h')", "declared twice in this class"),
        ("x = hr.count(window=['1h', '60m'])", None),
        ("x = hr.count(window=['1h', '1h '])", 'the window "1h" stands there twice'),
        ("x = hr.count(window=['1h'])\n    x_1h = hr.count()", 'a column "x_1h" that is declared beside it'),
        ("x = hr.count(window=['1h', '2d'])\n    y = x['3d']", 'there is no window "3d" here; there is "1h", "2d"'),
        ("x = y = hr.count()", "is the same expression as x"),
        ("X = hr.count()", 'name "X" must match [a-z][a-z0-9_]*'),
        ("a__b = hr.count()", 'may not contain "__"'),
        ("of = hr.count()", '"of" is reserved'),
        ("n = hr.count()\n    x: hr.Field[float]", "annotated fields belong in an hr.Event or hr.Table"),
        ("pass", "no features; add one such as"),
    ],
)  # fmt: skip
def test_features(body: str, message: str | None) -> None:
    source = f"class Group(hr.FeatureGroup, key=Transfer.sender):\n    {body}\n"
    if message is None:
        declare(source)
    else:
        assert message in error(source)


def test_lines_and_names_of_features() -> None:
    assert (
        error(
            """\
        class Group(hr.FeatureGroup, key=Transfer.sender):
            n = hr.count()
            total = hr.sum(
                Transfer.amount,
                window="1h",
                hop="7m",
            )
        """
        )
        == '@3 Group.total: hop "7m" does not divide window "1h"; use "5m", "10m" or hop="exact"'
    )


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("class G(hr.FeatureGroup): n = hr.count()", "missing key=; write the field that names the entity"),
        ("class G(hr.FeatureGroup, kye=Transfer.sender): n = hr.count()", "unknown keyword kye=; did you mean key=?"),
        (
            "class G(hr.FeatureGroup, key=Transfer.sender, hue=1): n = hr.count()",
            "hue=; there are key, where, resolution",
        ),
        ("class E(hr.Event, ownr='me'): at: hr.Field[datetime] = hr.event_time()", "ownr=; did you mean owner=?"),
        ("class G(Spend): n2 = hr.count()", "a group cannot be inherited from; build shared features"),
        ("class G(hr.FeatureGroup, key='sender'): n = hr.count()", "key= takes fields of an event"),
        ("class G(hr.FeatureGroup, key=Transfer.amount): n = hr.count()", "a float cannot be a key"),
        ("class G(hr.FeatureGroup, key=Profile.user): n = hr.count()", "Profile is no event"),
        ("class G(hr.FeatureGroup, key=(Transfer.sender, Transfer.sender)): n = hr.count()", "names a field twice"),
        ("class G(hr.FeatureGroup, key=()): n = hr.count()", "no feature says of which one"),
        ("class G(hr.FeatureGroup, key=Transfer.sender, where=Transfer.amount): n = hr.count()", "takes a condition"),
        ("class G(hr.FeatureGroup, key=Transfer.sender, where=Profile.age > 1): n = hr.count()", "several fields"),
        ("class G(hr.FeatureGroup, key=Transfer.sender, resolution='0s'): n = hr.count()", "longer than nothing"),
        ("class G(hr.FeatureGroup, key=Transfer.sender, resolution='1s'): n = hr.count(window='1500ms')", "multiple"),
        ("class G(Spend, key=Transfer.sender): n2 = hr.count()", "a group cannot be inherited from"),
        ("class G(hr.FeatureGroup, key=Transfer.sendr): n = hr.count()", 'Transfer has no column "sendr"; did you'),
        ("class G(hr.FeatureGroup, key=Transfer.sender, name='A'): n = hr.count()", 'name "A" must match'),
        ("Spend.of(Transfer.amount)", "key part sender is str, not Transfer.amount, which is float"),
        ("Spend.of(Transfer.merchant)", "key part sender names a user, but Transfer.merchant names a merchant"),
        ("Spend.of(Transfer.sender, Transfer.receiver)", "the key has 1 part(s) (sender), but 2 given"),
        ("Spend.of(Transfer.sender).of(Transfer.sender)", "is bound already"),
        ("Spend.of('sender')", "is no field of a request"),
        ("Spend.totl", 'Spend has no column "totl"; it has n_1h, n_1d, mean'),
    ],
)
def test_groups(statement: str, message: str) -> None:
    assert message in error(statement + "\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("amount: float", 'a plain annotation is not a field; write "amount: hr.Field[float]"'),
        ("amount: float | None", 'write "amount: hr.Field[float | None]"'),
        ("user: str = hr.key(User)", 'write "user: hr.Field[str] = ..."'),
        ("user = hr.key(User)", 'no annotation; write "user: hr.Field[...] = hr.key(...)"'),
        ("amount: hr.Field[complex]", "is no column type"),
        ('amount: "Money"', "cannot read the annotation Money"),
        ("amount: hr.Field[float] = 1.0", 'a default is written "amount: hr.Field[...] = hr.field(default=1.0)"'),
        ("amount: hr.Field[float] = hr.field(default='x')", "the default 'x' is no float"),
        ("amount: hr.Field[float] = hr.field(default=None)", "a default of None needs a type with | None"),
        ("user: hr.Field[float] = hr.key(User)", "a float cannot be a key, it has no exact equality"),
        ("user: hr.Field[str] = hr.key('user')", "hr.key takes an hr.Entity or an event class"),
        ("user: hr.Field[int] = hr.key(Transfer)", "Transfer.transfer_id is str, but this key is int"),
        ("of: hr.Field[str]", '"of" is reserved'),
        ("Amount: hr.Field[float]", 'name "Amount" must match'),
        ("taste: hr.Field[list[float]]", "a list needs its length"),
        ("size: hr.Field[int] = hr.field(size=3)", "only lists have a size"),
        ("double = Transfer.amount * 2", "a raw event computes nothing"),
        ("then: hr.Field[datetime] = hr.event_time()", "a second event time beside at"),
        ("code: hr.Field[float] = hr.id()", "an id is a str or an int"),
    ],
)
def test_fields(body: str, message: str) -> None:
    source = f"class Seen(hr.Event):\n    at: hr.Field[datetime] = hr.event_time()\n    {body}\n"
    found = error(source)
    assert message in found
    assert found.startswith("@3 Seen")


def test_an_event_needs_a_time_and_an_id_to_be_referred_to() -> None:
    assert "no event time" in error("class Seen(hr.Event):\n    user: hr.Field[str] = hr.key(User)\n")
    assert "the event time is written" in errors("class Seen(hr.Event):\n    at: hr.Field[int] = hr.event_time()\n")[0]
    assert "Seen has no hr.id(), so no field can be its key" in error(
        """\
        class Seen(hr.Event):
            at: hr.Field[datetime] = hr.event_time()
        class Answer(hr.Event):
            seen: hr.Field[str] = hr.key(Seen)
            at: hr.Field[datetime] = hr.event_time()
        """
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Paid(Transfer, where=Transfer.amount): ...", "where= takes a condition, but this is float"),
        ("class Paid(Transfer, where=Transfer.amout > 1): ...", 'no column "amout"'),
        ("class Paid(Transfer):\n    amount = Transfer.amount * 2", "an inherited column of this name exists"),
        ("class Paid(Transfer):\n    note: hr.Field[str]", "annotated fields belong in"),
        ("class Paid(Transfer, abstract=True): ...", "a derived stream cannot be abstract"),
        ("class Paid(Transfer):\n    age = Profile.age", "write Profile.of(Transfer.sender) or Profile.of("),
        ("class Paid(Transfer):\n    n = hr.count()", "aggregations belong in an hr.FeatureGroup"),
        ("class Seen(hr.Event, where=hr.Expr):\n    at: hr.Field[datetime] = hr.event_time()", "filters a derived"),
        ("class Seen(hr.Event, dedupe='x'):\n    at: hr.Field[datetime] = hr.event_time()", 'dedupe: "x" is not a'),
        (
            "class Paid(Transfer):\n    a = Profile.of(Transfer.sender).age\nclass More(Paid):\n    a = Transfer.count",
            "inh",
        ),
    ],
)
def test_streams(source: str, message: str) -> None:
    assert message in errors(source + "\n")[0]


@pytest.mark.parametrize(
    ("keywords", "body", "message"),
    [
        ("", "x: hr.Field[int]", "no key; add a field such as"),
        ("", "user: hr.Field[str] = hr.key(User)\n    code: hr.Field[str] = hr.id()", "a table has no id"),
        ("", "user: hr.Field[str] = hr.key(User)\n    x = Transfer.amount * 2", "a table computes nothing"),
        (", ttl='1h'", "user: hr.Field[str] = hr.key(User)", "a ttl needs an event time"),
        (", schedule='@daily'", "user: hr.Field[str] = hr.key(User)", "a schedule needs a source="),
        (", schedule='daily', source=hr.SQL('select 1')", "user: hr.Field[str] = hr.key(User)", "is none of"),
        (", source='select 1'", "user: hr.Field[str] = hr.key(User)", "source= takes an hr.SQL"),
        (", checks=[hr.InRange('x', min=0)]", "user: hr.Field[str] = hr.key(User)", '"x", which is no field'),
        (", checks=[hr.InRange('user', min=0)]", "user: hr.Field[str] = hr.key(User)", "the column is no number"),
        (", checks=[3]", "user: hr.Field[str] = hr.key(User)", "checks= takes hr.RowCount"),
    ],
)
def test_tables(keywords: str, body: str, message: str) -> None:
    assert message in error(f"class Seen(hr.Table{keywords}):\n    {body}\n")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("[Profile]", "write Profile.of(Transfer.sender) or Profile.of(Transfer.receiver)"),
        ("[Spend, Spend.n]", 'two columns of one name, "spend__n_1h"'),
        ("[Spend, Spend.of(Transfer.sender).mean]", '"spend__mean" and "sender__spend__mean" are the same values'),
        ("[Transfer]", "features= takes groups, tables, on-request classes and their columns"),
        ("[Transfer.amount * 2]", "an expression needs a name"),
        ("[Transfer.amount + 'x']", "+ does not take float and str"),
        ("[Spend.n['9h']]", 'there is no window "9h" here'),
        ("['spend']", "features= takes groups"),
        ("Spend", "features= takes a list, such as features=[Spend]"),
    ],
)
def test_views(features: str, message: str) -> None:
    found = errors(f'view = hr.FeatureView("transfer", request=Transfer, features={features})\n')
    assert message in found[0]
    assert found[0].startswith('@1 view "transfer": ')


def test_views_ask_about_events_and_read_their_own_request() -> None:
    other = textwrap.dedent(
        """\
        class Login(hr.Event):
            user: hr.Field[str] = hr.key(User)
            at: hr.Field[datetime] = hr.event_time()
        class Now(hr.OnRequest):
            hour = Transfer.at.hour()
        class Sales(hr.FeatureGroup, key=Transfer.merchant):
            n = hr.count()
        """
    )
    assert "Transfer.at is no field of the request, Login" in error(
        other + 'view = hr.FeatureView("v", request=Login, features=[Now])\n'
    )
    assert "Login.user is no field of the request, Transfer" in error(
        other + 'view = hr.FeatureView("v", request=Transfer, features=[Login.user])\n'
    )
    assert "no field of Login is a key of merchant" in error(
        other + 'view = hr.FeatureView("v", request=Login, features=[Sales])\n'
    )
    assert "request= takes an event class" in error('view = hr.FeatureView("v", request=Spend, features=[Spend])\n')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("label=hr.Label(Transfer.amount > 1, wait='1d')", "needs one field that is hr.key(Transfer)"),
        ("label=hr.Label(Answer.good, wait='x')", 'label wait: "x" is not a duration'),
        ("label=hr.Label(Answer.good, wait='1d', default=0)", "label: default=0 is no bool"),
        ("label=hr.Label(Answer.said, wait='1d')", "the truth is a condition or a number, not str"),
        (
            "label=hr.Label(Answer.good & Transfer.member, wait='1d')",
            "an expression over one event, but this one reads",
        ),
        ("label=LABEL, train_on='x'", 'train_on: "x" is not a duration'),
        ("label=LABEL, estimator=7", "estimator= takes an unfitted estimator"),
        ("label=LABEL, estimator=Estimator", "estimator= takes an estimator, not its class; write Estimator()"),
        ("label='fraud'", "label= takes an hr.Label, such as"),
        ("label=LABEL, retrain='1d'", """retrain= takes a list, such as [hr.Every("1d")], not '1d'"""),
        ("label=LABEL, retrain=['daily']", "retrain= takes hr.Every, hr.OnDrift and hr.OnDecay"),
        ("label=LABEL, retrain=[hr.Every('x')]", 'hr.Every: "x" is not a duration'),
        ("label=LABEL, promote=hr.Better(on='7d', confidence=95)", "a share between 0 and 1"),
        ("label=LABEL, promote=hr.Better(on='7d', steps=[hr.Canary(2, '1h')])", "hr.Canary(2): a share of requests"),
        ("label=LABEL, promote=hr.Better(on='7d', steps=['1h'])", "takes hr.Shadow and hr.Canary, not '1h'"),
        ("label=LABEL, promote=hr.Better(on='7d', no_worse_in=['x'])", "is no field of the request"),
        ("label=LABEL, metric='ap'", 'metric="ap" is not known; there are average_precision, roc_auc'),
    ],
)
def test_models(arguments: str, message: str) -> None:
    estimator = "" if "estimator=" in arguments else ", estimator=Estimator()"
    source = f"""\
        class Answer(hr.Event):
            about: hr.Field[str] = hr.key(Transfer)
            good: hr.Field[bool]
            said: hr.Field[str]
            at: hr.Field[datetime] = hr.event_time()
        class Estimator:
            def fit(self, X, y): ...
        LABEL = hr.Label(Answer.good, wait="1d")
        view = hr.FeatureView("transfer", request=Transfer, features=[Spend])
        model = hr.Model("good", view=view, {arguments}{estimator})
        """
    found = error(source)
    assert message in found
    assert found.startswith('@10 model "good": ')


def test_annotations_resolve_in_a_function_also_as_texts() -> None:
    names = declare(
        """\
        def make():
            from datetime import datetime as moment
            Shop = hr.Entity("shop")
            class Visit(hr.Event):
                shop: "hr.Field[str]" = hr.key(Shop)
                at: "hr.Field[moment]" = hr.event_time()
            return Visit
        Visit = make()
        """
    )
    assert list(names["Visit"].__definition__.fields) == ["shop", "at"]


def test_an_unknown_name_is_also_an_attribute_error() -> None:
    spend = declare("")["Spend"]
    assert not hasattr(spend, "totl")
    with pytest.raises(DefinitionError, match="it has n_1h, n_1d, mean"):
        spend.totl  # noqa: B018


def test_a_window_that_there_is_not_is_told_where_it_is_used() -> None:
    names = declare('class G(hr.FeatureGroup, key=Transfer.sender):\n    n = hr.count(window=["1h", "7d"])\n')
    assert repr(names["G"].n["2h"] / 2) == 'Expr(nothing: there is no window "2h" here; there is "1h", "7d")'


def test_a_row_of_a_group_shows_its_values() -> None:
    names = declare(
        'class G(hr.FeatureGroup, key=Transfer.sender):\n    n = hr.count(window="1h")\n    m = hr.count()\n'
    )
    assert repr(instance_of(names["G"], {"n": 3})) == "G(n=3, m=None)"
