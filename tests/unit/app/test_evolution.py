"""Which changes of a stream's fields are told, and which are refused with the reason and the cure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import headrace as hr
from headrace.app.changes import project_changes
from headrace.app.project import Project
from headrace.catalog.catalog import Catalog
from headrace.cli.main import main
from headrace.core.errors import DefinitionError, PlanError
from headrace.core.time import SimulatedClock
from headrace.features.compile import compile_project

START = """
    number: hr.Field[str] = hr.id()
    user: hr.Field[str] = hr.key(User)
    ccy: hr.Field[str]
    amount: hr.Field[int]
    note: hr.Field[str | None]
    at: hr.Field[datetime] = hr.event_time()
"""


def stream(body: str) -> Any:
    """The class of stream "transfer" with this body, as a user's module would make it."""
    scope: dict[str, Any] = {"hr": hr, "User": hr.Entity("user"), "Shop": hr.Entity("shop"), "datetime": datetime}
    exec(f"class Transfer(hr.Event):\n{body}", scope)
    return scope["Transfer"]


def edited(*edits: tuple[str, str], add: str = "") -> Any:
    body = START
    for old, new in edits:
        assert old in body
        body = body.replace(old, new)
    return stream(body + (f"    {add}\n" if add else ""))


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = Catalog(tmp_path / "catalog.db", SimulatedClock())
    made.apply(project_changes(compile_project([edited()]), made).records)
    yield made
    made.close()


def told(catalog: Catalog, cls: Any) -> str:
    """What the plan says of the stream; the definitions are applied."""
    found = project_changes(compile_project([cls]), catalog)
    catalog.apply(found.records)
    return dict(found.evolutions).get("transfer", "")


def refused(catalog: Catalog, cls: Any, **callables: Callable[..., Any]) -> str:
    with pytest.raises(PlanError) as error:
        project_changes(compile_project([cls]), catalog, **callables)
    assert str(error.value).startswith("older events could not be read under these definitions:\nstream transfer: ")
    return str(error.value).split("\n", 1)[1].replace("stream transfer: ", "")


def test_what_evolves_is_told(catalog: Catalog) -> None:
    cls = edited(
        ("ccy: hr.Field[str]", 'currency: hr.Field[str] = hr.field(alias="ccy")'),
        ("amount: hr.Field[int]", "amount: hr.Field[float]"),
        add='channel: hr.Field[str] = hr.field(default="app")',
    )
    assert told(catalog, cls) == ('currency renamed from ccy, amount int -> float, + channel (default "app")')
    found = project_changes(compile_project([edited()]), catalog, has_events=lambda name: False)
    assert found.evolutions == ()


def test_optional_fields_come_and_unread_fields_go(catalog: Catalog) -> None:
    cls = edited(("    note: hr.Field[str | None]\n", ""), add="device: hr.Field[str | None]")
    assert told(catalog, cls) == (
        "+ device (null in older events), - note (read by nothing; an event that still brings it is a dead letter)"
    )
    looser = edited(("ccy: hr.Field[str]", "ccy: hr.Field[str | None]"), add="device: hr.Field[str | None]")
    assert told(catalog, looser) == "ccy may be null, + note (null in older events)"


@pytest.mark.parametrize(
    ("edits", "add", "reason"),
    [
        ([], "shop: hr.Field[str]", 'field "shop" is not in older events; give it | None or hr.field(default=...)'),
        (
            [("ccy:", "currency:")],
            "",
            (
                'field "currency" is not in older events; give it | None or hr.field(default=...); '
                'if it is the former "ccy", give it alias="ccy"'
            ),
        ),
        (
            [],
            'shop: hr.Field[str | None] = hr.field(default="s1")',
            (
                'field "shop" is not in older events, and may be null while its default is "s1": '
                "the two could not be told apart; take | None or the default away"
            ),
        ),
        (
            [("amount: hr.Field[int]", "amount: hr.Field[str]")],
            "",
            (
                'field "amount" was int, now it is str; only int may become float: '
                "keep int, or add a field of another name"
            ),
        ),
        (
            [("ccy: hr.Field[str]", 'currency: hr.Field[bool] = hr.field(alias="ccy")')],
            "",
            (
                'field "currency" (once "ccy") was str, now it is bool; only int may become float: '
                "keep str, or add a field of another name"
            ),
        ),
        (
            [("user: hr.Field[str]", "user: hr.Field[int]")],
            "",
            (
                'field "user" was str, now it is int; only int may become float: '
                "keep str, or add a field of another name"
            ),
        ),
        (
            [("note: hr.Field[str | None]", "note: hr.Field[str]")],
            "",
            'field "note" is null in older events; keep the type with | None',
        ),
        (
            [("at: hr.Field[datetime] = hr.event_time()", "day: hr.Field[datetime] = hr.event_time()")],
            "",
            (
                'the event time was "at", now it is "day"; if it was '
                'renamed, give it alias="at", else keep it or declare '
                'a new stream\nfield "day" is not in older events; give it | None or hr.field(default=...); '
                'if it is the former "at", give it alias="at"'
            ),
        ),
        (
            [("number: hr.Field[str] = hr.id()", "number: hr.Field[str]")],
            "",
            (
                'the id was "number", now there is none; if it was '
                'renamed, give it alias="number", else keep it or '
                "declare a new stream"
            ),
        ),
        (
            [
                ("number: hr.Field[str] = hr.id()", "number: hr.Field[str]"),
                ("ccy: hr.Field[str]", "ccy: hr.Field[str] = hr.id()"),
            ],
            "",
            (
                'the id was "number", now it is "ccy"; if it was '
                'renamed, give it alias="number", else keep it or '
                "declare a new stream"
            ),
        ),
        (
            [
                ("    note: hr.Field[str | None]\n", ""),
                ("ccy: hr.Field[str]", 'ccy: hr.Field[str | None] = hr.field(alias="note")'),
            ],
            "",
            '"ccy" and "note" were two fields; an alias is a former name of one field',
        ),
        (
            [("amount: hr.Field[int]", 'amount: hr.Field[int] = hr.field(alias="sum")')],
            "",
            'field "amount": aliases are its former names, all of them, the oldest first; take the alias away',
        ),
    ],
)
def test_what_would_lose_or_change_older_events_is_refused(
    catalog: Catalog, edits: list[tuple[str, str]], add: str, reason: str
) -> None:
    assert reason in refused(catalog, edited(*edits, add=add))
    assert [d.record.body["fields"][2]["name"] for d in catalog.definitions("stream", active=False)] == ["ccy"]


def test_every_former_definition_counts_not_only_the_last(catalog: Catalog) -> None:
    gone = edited(("    note: hr.Field[str | None]\n", ""))
    told(catalog, gone)
    again = edited(("    note: hr.Field[str | None]\n", ""), add="note: hr.Field[int | None]")
    assert 'field "note" was str, now it is int' in refused(catalog, again)
    required = edited(("note: hr.Field[str | None]", "note: hr.Field[str]"))
    assert 'field "note" is not in older events' in refused(catalog, required)
    assert told(catalog, edited()) == "+ note (null in older events)"


def test_an_alias_stays_and_the_oldest_is_first(catalog: Catalog) -> None:
    second = edited(("ccy: hr.Field[str]", 'currency: hr.Field[str] = hr.field(alias="ccy")'))
    told(catalog, second)
    for alias in ('"currency"', '["currency", "ccy"]'):
        third = edited(("ccy: hr.Field[str]", f"money: hr.Field[str] = hr.field(alias={alias})"))
        assert 'the oldest first; write alias=["ccy", "currency"]' in refused(catalog, third)
    third = edited(("ccy: hr.Field[str]", 'money: hr.Field[str] = hr.field(alias=["ccy", "currency"])'))
    assert told(catalog, third) == "money renamed from currency"


def test_a_default_that_older_events_read_as_cannot_change(catalog: Catalog) -> None:
    told(catalog, edited(add='channel: hr.Field[str] = hr.field(default="app")'))
    other = edited(add='channel: hr.Field[str] = hr.field(default="web")')
    assert 'field "channel" read as "app" in events older than itself' in refused(catalog, other)


def test_ints_without_a_float_of_their_own_stay_ints(catalog: Catalog) -> None:
    cls = edited(("amount: hr.Field[int]", "amount: hr.Field[float]"))
    found = refused(catalog, cls, largest=lambda name, field: float(2**53) if field == "amount" else 0.0)
    assert found.startswith('field "amount" holds ints of 2^53 or more, which floats would round; keep int')


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            '    a: hr.Field[str] = hr.field(alias="at")\n    at: hr.Field[datetime] = hr.event_time()',
            "is a name of at",
        ),
        ('    a: hr.Field[str] = hr.field(alias="A b")\n    at: hr.Field[datetime] = hr.event_time()', "alias: name"),
        (
            (
                '    a: hr.Field[str] = hr.field(alias="x")\n    b: hr.Field[str] = hr.field(alias="x")\n'
                "    at: hr.Field[datetime] = hr.event_time()"
            ),
            "is a name of a already",
        ),
    ],
)
def test_an_alias_that_is_another_name_is_refused_when_declared(body: str, reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        stream(body)


def test_a_table_takes_no_alias() -> None:
    with pytest.raises(DefinitionError, match="alias= is for events"):

        class Profile(hr.Table):
            user: hr.Field[str] = hr.key(hr.Entity("user"))
            age: hr.Field[int] = hr.field(alias="years")


FEATURES = "from datetime import datetime\nimport headrace as hr\nUser = hr.Entity('user')\nclass Transfer(hr.Event):"
ROW = {"number": "t1", "user": "u1", "ccy": "eur", "amount": 2**53 + 1, "note": None, "at": "2026-05-01T12:00:00Z"}


def write(folder: Path, body: str) -> None:
    (folder / "headrace.toml").write_text("sync = false\n", encoding="utf-8")
    (folder / "features.py").write_text(FEATURES + body, encoding="utf-8")


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, [*arguments, "--project", str(folder)])
    return done.exit_code, done.output


def test_the_command_line_tells_and_refuses(tmp_path: Path) -> None:
    write(tmp_path, START.replace("ccy: hr.Field[str]", "ccy: hr.Field[float]"))
    assert run(tmp_path, "apply", "--yes")[0] == 0
    # Nothing was published yet: any change goes.
    write(tmp_path, START)
    code, text = run(tmp_path, "apply", "--yes")
    assert (code, "may" in text) == (0, False)
    with Project.open(tmp_path) as project:
        project.publish("transfer", [ROW])
    write(tmp_path, START + "    shop: hr.Field[str]\n    channel: hr.Field[str] = hr.field(default='app')\n")
    for command in (["plan"], ["apply", "--yes"]):
        code, text = run(tmp_path, *command)
        assert code == 1
        assert 'stream transfer: field "shop" is not in older events; give it | None' in text
    write(tmp_path, START.replace("amount: hr.Field[int]", "amount: hr.Field[float]"))
    assert "holds ints of 2^53 or more" in run(tmp_path, "plan")[1]
    write(
        tmp_path,
        START.replace("ccy: hr.Field[str]", "currency: hr.Field[str] = hr.field(alias='ccy')")
        + "    channel: hr.Field[str] = hr.field(default='app')\n",
    )
    code, text = run(tmp_path, "plan")
    assert code == 0
    assert '  stream transfer: currency renamed from ccy, + channel (default "app")\n' in text
    assert '"evolutions":{"transfer":"currency renamed' in run(tmp_path, "plan", "--json")[1].replace(
        " ", "", 2
    ).replace('": ', '":')
    assert run(tmp_path, "apply", "--yes")[0] == 0
    assert run(tmp_path, "plan") == (0, "nothing changes\n")
