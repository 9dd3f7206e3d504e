"""What an edit changes: by content, not by name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

import headrace as hr
from headrace.app.changes import definition_records, project_changes
from headrace.catalog.catalog import Catalog
from headrace.core.time import SimulatedClock
from headrace.features.compile import compile_project

User = hr.Entity("user")


class Click(hr.Event, owner="web@shop.example"):
    user: hr.Field[str] = hr.key(User)
    price: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()


def group(window: str, name: str = "seen", doc: str = "Lately.") -> Any:
    class Seen(hr.FeatureGroup, key=Click.user, name=name):
        n = hr.count(window=window)
        top = hr.max(Click.price, window="1d")

    Seen.__definition__.doc = doc  # type: ignore[attr-defined]
    return Seen


@pytest.fixture
def catalog(tmp_path: Any) -> Any:
    made = Catalog(tmp_path / "catalog.db", SimulatedClock())
    yield made
    made.close()


def changes_of(catalog: Catalog, *definitions: Any) -> set[tuple[str, str, str]]:
    found = project_changes(compile_project(definitions), catalog)
    catalog.apply(found.records)
    return {(change.kind, change.name, change.change) for change in found.changes}


def test_only_the_edited_feature_and_its_group_change(catalog: Catalog) -> None:
    assert ("stream", "click", "added") in changes_of(catalog, group("1h"))
    assert changes_of(catalog, group("1h", doc="Other words.")) == set()
    assert changes_of(catalog, group("2h")) == {("feature", "seen.n", "changed"), ("group", "seen", "changed")}


def test_a_new_name_of_the_same_content_is_a_renaming(catalog: Catalog) -> None:
    changes_of(catalog, group("1h"))
    assert changes_of(catalog, group("1h", name="viewed")) == {
        ("group", "viewed", "renamed"),
        ("feature", "viewed.n", "renamed"),
        ("feature", "viewed.top", "renamed"),
    }


def test_what_is_gone_is_dropped_with_its_version(catalog: Catalog) -> None:
    changes_of(catalog, group("1h"))
    plan = compile_project([Click])
    found = project_changes(plan, catalog)
    assert {(c.kind, c.name, c.change) for c in found.changes} == {
        ("group", "seen", "removed"),
        ("feature", "seen.n", "removed"),
        ("feature", "seen.top", "removed"),
    }
    assert found.dropped == (compile_project([group("1h")]).groups["seen"].version,)
    assert "- group seen" in str(found)


def test_an_owner_stands_in_where_none_is_named() -> None:
    records = {(r.kind, r.name): r for r in definition_records(compile_project([group("1h")]), "all@shop.example")}
    assert records["stream", "click"].owner == "web@shop.example"
    assert records["group", "seen"].owner == "all@shop.example"
    assert records["feature", "seen.n"].body["window_us"] == 3_600_000_000


def test_a_feature_of_equal_definition_is_named_with_its_owner(catalog: Catalog) -> None:
    changes_of(catalog, group("1h"))

    class Other(hr.FeatureGroup, key=Click.user, owner="new@shop.example"):
        often = hr.count(window="1h")
        rarely = hr.count(window="2h")

    found = project_changes(compile_project([group("1h"), Other]), catalog, "all@shop.example")
    assert found.reuse == (("other.often", "seen.n", "all@shop.example"),)
    assert "other.often is the same as seen.n of all@shop.example: use that one" in str(found)
    assert found.backfills == ("other",)


def test_a_group_that_is_computed_under_another_name_needs_no_backfill(catalog: Catalog) -> None:
    changes_of(catalog, group("1h"))
    found = project_changes(compile_project([group("1h"), group("1h", name="viewed")]), catalog)
    assert ("group", "viewed", "added") in {(c.kind, c.name, c.change) for c in found.changes}
    assert found.backfills == ()
    assert found.reuse[0] == ("viewed.n", "seen.n", "")
