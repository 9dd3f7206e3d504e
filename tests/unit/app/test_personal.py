"""Values of personal fields: hidden wherever people look, unless they ask for them, and kept where they belong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from headrace.app.letters import letters_of
from headrace.app.project import Project
from headrace.catalog.catalog import Catalog
from headrace.cli.main import main
from headrace.core.errors import SchemaError
from headrace.core.time import SimulatedClock, to_us
from headrace.ingestion.masking import HIDDEN
from headrace.serving.access import Access
from headrace.serving.http import serving
from headrace.serving.service import Service
from tests.e2e.shop import FEATURES, orders, write_shop
from tests.unit.app.conftest import NOON

SECRET = "anna.secret@x.example"
NUMBER = 4915112345


def events() -> list[Any]:
    """Events that bring the secret in every wrong way."""
    good = {"order_id": "a", "user": SECRET, "amount": 5.0, "at": (NOON - timedelta(minutes=5)).isoformat()}
    return [
        good | {"amount": "7"},
        good | {"user": [SECRET]},
        good | {"user": NUMBER},
        {name: value for name, value in good.items() if name != "user"} | {"usr": SECRET},
        good | {"order_id": "b", SECRET[:4]: SECRET},
        good | {"at": "soon"},
        good | {"at": (NOON + timedelta(hours=3)).isoformat()},
        SECRET,
        [SECRET],
    ]


@pytest.fixture
def shop(tmp_path: Path, clock: SimulatedClock) -> Iterator[Project]:
    folder = write_shop(tmp_path / "shop")
    text = FEATURES.replace("hr.key(User)\n    amount", "hr.key(User, personal=True)\n    amount")
    text = text.replace("age: hr.Field[int | None]", "age: hr.Field[int | None] = hr.field(personal=True)")
    (folder / "features.py").write_text(text)
    with Project.open(folder, clock=clock) as project:
        project.ensure_applied()
        for event in events():
            project.publisher.publish("order", [event])
        project.publisher.publish_mixed([{"stream": "ordered", "user": SECRET}, SECRET])
        project.settle(wait=False)
        yield project


def test_lists_status_and_refusals_hide_them(shop: Project) -> None:
    letters = shop.dead_letters()
    assert len(letters) == 11
    assert shop.dead_letters().replay().left == 11
    shown = [repr(letters), str(list(letters)), str(letters.counts), str(shop.status()), str(letters.replay())]
    shown += [str(letters.get(letter.id)) for letter in letters]
    for secret in (SECRET, str(NUMBER)):
        assert all(secret not in text for text in shown)
    payloads = [json.loads(letter.payload) for letter in shop.dead_letters("order") if letter.offset in (0, 3)]
    at = (NOON - timedelta(minutes=5)).isoformat()
    assert payloads == [
        {"order_id": "a", "amount": 5.0, "at": at, "usr": HIDDEN},
        {"order_id": "a", "user": HIDDEN, "amount": "7", "at": at},
    ]
    # What is no person's is told as before.
    assert [letter.reason for letter in shop.dead_letters(letters=["order/0/0"])] == ['expected float, got str "7"']
    assert [letter.reason for letter in shop.dead_letters(letters=["order/0/2"])] == ["expected string"]


def test_they_cannot_be_guessed_by_asking_for_reasons(shop: Project) -> None:
    assert len(shop.dead_letters(reason=str(NUMBER))) == 0
    assert shop.dead_letters(reason=str(NUMBER)).replay(dry_run=True).left == 0
    assert shop.dead_letters(reason=str(NUMBER)).drop(why="a guess") == 0
    assert len(shop.dead_letters(reason=str(NUMBER), personal=True)) == 1


def test_whoever_asks_for_them_sees_them(shop: Project) -> None:
    letters = shop.dead_letters(personal=True)
    assert [json.loads(letter.payload) for letter in letters if letter.id == "order/0/0"] == [events()[0]]
    assert str(NUMBER) in letters.get("order/0/2").reason


def test_a_letter_is_fixed_without_its_secret_being_seen(shop: Project) -> None:
    letters = shop.dead_letters()
    fixed = letters.fix("order/0/0", {"amount": 7.0})
    assert SECRET not in str(fixed)
    assert shop.get("spend", user=SECRET).total["1h"] == 7.0
    with pytest.raises(SchemaError) as refused:
        letters.fix("order/0/2", {"amount": 7.0})
    assert str(NUMBER) not in str(refused.value)


def test_nobody_moves_them_to_where_they_are_shown(shop: Project) -> None:
    letters = shop.dead_letters()
    good = {"outcome_id": "x", "order": "a", "bad": False}
    for changes, kept in (({}, "user"), ({"user": "u1"}, "usr")):
        letter = "order/0/0" if kept == "user" else "order/0/3"
        with pytest.raises(SchemaError, match=f'"{kept}" of order may be personal, and is not in outcome') as refused:
            letters.fix(letter, changes, stream="outcome")
        assert SECRET not in str(refused.value)
    fixed = letters.fix("order/0/0", good, remove=["user", "order_id", "amount"], stream="outcome")
    assert fixed.mark is not None
    assert fixed.mark.published == "outcome/0/0"
    with pytest.raises(SchemaError, match="no such field"):  # of what the event is, and not of who asks
        shop.dead_letters(personal=True).fix("order/0/3", good, stream="outcome")


def test_a_field_may_become_personal_without_a_new_version(shop: Project, clock: SimulatedClock) -> None:
    folder, before = shop.settings.folder, shop.definition_plan.groups["spend"].version
    shop.close()
    (folder / "features.py").write_text(FEATURES)
    with Project.open(folder, clock=clock) as project:
        assert project.definition_plan.groups["spend"].version == before
        assert not project.plan()
        assert SECRET in str(list(project.dead_letters()))


def test_statistics_of_personal_columns_name_no_single_value(shop: Project, clock: SimulatedClock) -> None:
    shop.put("profile", [{"user": f"u{i}", "age": 30 + i, "city": "Ulm", "at": "2026-01-01"} for i in range(10)])
    clock.advance_to(to_us(NOON + timedelta(hours=1)))
    shop.publish("order", orders(30, NOON + timedelta(minutes=59)))
    found = shop.statistics("order")
    age, amount = found["profile__age"], found["amount"]
    assert (age.min, age.max, age.quantiles) == (None, None, {})
    assert (age.count, age.mean) == (30, 34.5)
    assert (amount.min, amount.max) == (0.0, 60.0)


def test_the_command_line_hides_them_too(shop: Project) -> None:
    folder = str(shop.settings.folder)
    shop.close()

    def run(*arguments: str) -> str:
        return CliRunner().invoke(main, [*arguments, "--project", folder]).output

    hidden = run("dead", "list") + run("dead", "list", "--json") + run("dead", "show", "order/0/1") + run("status")
    assert SECRET not in hidden
    assert SECRET in run("dead", "show", "order/0/1", "--personal")
    assert SECRET in run("dead", "list", "--json", "--personal")


@contextmanager
def served(shop: Project, catalog: Catalog) -> Iterator[httpx.Client]:
    parts = shop.parts
    service = Service(
        parts.plan, parts.clock, parts.publisher(), parts.online, parts.horizon_us, parts.internal,
        access=Access(catalog.keys, parts.clock), letters=letters_of(parts),
    )  # fmt: skip
    with serving(service) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


def test_a_key_needs_the_scope_to_see_them(shop: Project) -> None:
    catalog = shop.parts.catalog
    _, admin = catalog.keys.make("admin", ["admin"], who="me")
    _, officer = catalog.keys.make("officer", ["admin", "personal"], who="me")
    with served(shop, catalog) as client:
        for token, sees in ((admin, False), (officer, True)):
            key = {"X-API-Key": token}
            texts = [
                client.get("/v1/dead_letters", headers=key).text,
                client.get("/v1/dead_letters/order/0/1", headers=key).text,
                client.post("/v1/dead_letters/replay", json={"dry_run": True}, headers=key).text,
                client.post("/v1/dead_letters/order/0/2/fix", json={}, headers=key).text,
            ]
            assert [SECRET in texts[0], SECRET in texts[1], str(NUMBER) in texts[3]] == [sees] * 3
            assert (SECRET in texts[2]) is sees
            listed = client.get("/v1/dead_letters", params={"reason": str(NUMBER)}, headers=key).json()
            assert listed["total"] == sees
