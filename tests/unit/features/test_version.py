"""Versions change with what is computed, and with nothing else."""

from __future__ import annotations

import pytest

from headrace.features.plan import ProjectPlan
from tests.unit.features.declaring import FIRST_LINE
from tests.unit.features.test_compile import compiled

BASE = """\
class Group(hr.FeatureGroup, key=Transfer.sender):
    n = hr.count(window="1h")
    total = hr.sum(Transfer.amount, window="1d", where=Transfer.member)
    per = total / n
class Rate(hr.Table, source=hr.SQL("select 1"), ttl="1h"):
    user: hr.Field[str] = hr.key(User)
    usd: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()
class Now(hr.OnRequest):
    over = Transfer.amount / Group.total
view = hr.FeatureView("transfer", request=Transfer, features=[Group, Now])
"""


def versions(plan: ProjectPlan) -> dict[str, str]:
    group, table = plan.groups["group"], plan.tables["rate"]
    specs = [*group.aggregates, *group.derived]
    found = dict(zip(("n", "total", "per"), (spec.version for spec in specs), strict=True))
    return {**found, "group": group.version, "table": table.version, "view": plan.views["transfer"].version}


BEFORE = versions(compiled(BASE))


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ('window="1h"', 'window="2h"', {"n", "per", "group", "view"}),
        ('window="1h"', 'window="60m"', set()),
        ('window="1h"', 'window="1h", hop="10m"', {"n", "per", "group", "view"}),
        ('window="1h"', 'window="1h", hop="exact"', set()),
        ('window="1h"', 'window="1h", delay="1m"', {"n", "per", "group", "view"}),
        ('window="1h"', 'window="1h", doc="how many"', set()),
        ("Transfer.amount, window", "Transfer.count, window", {"total", "per", "group", "view"}),
        ("Transfer.amount, window", "Transfer.amount * 1.0, window", {"total", "per", "group", "view"}),
        ("where=Transfer.member", "where=~Transfer.member", {"total", "per", "group", "view"}),
        ("per = total / n", "per = n / total", {"per", "view"}),
        ("per = total / n", "each = total / n", set()),
        ("key=Transfer.sender", "key=Transfer.sender, where=Transfer.member", {"n", "total", "per", "group", "view"}),
        ("key=Transfer.sender", "key=Transfer.sender, resolution='1s'", {"n", "total", "per", "group", "view"}),
        ("key=Transfer.sender", "key=Transfer.receiver", {"n", "total", "per", "group", "view"}),
        ("key=Transfer.sender", "key=Transfer.sender, owner='me', tags=['x']", set()),
        ('ttl="1h"', 'ttl="2h"', {"table"}),
        ('ttl="1h"', 'ttl="1h", schedule="@daily"', set()),
        ("select 1", "select 2", {"table"}),
        ("Transfer.amount / Group.total", "Group.total / Transfer.amount", {"view"}),
        ("over =", "above =", set()),
        ("[Group, Now]", "[Now, Group]", {"view"}),
        ("[Group, Now]", "[Group]", {"view"}),
    ],
)
def test_what_changes_a_version(old: str, new: str, changed: set[str]) -> None:
    assert BASE.count(old) >= 1
    after = versions(compiled(BASE.replace(old, new, 1)))
    assert {name for name, version in after.items() if version != BEFORE[name]} == changed


def test_versions_are_short_hex_and_lasting() -> None:
    assert all(len(version) == 16 and int(version, 16) >= 0 for version in BEFORE.values())
    assert versions(compiled(BASE)) == BEFORE
    # Stored states and served models are bound to these: what a definition hashes to may not drift between releases.
    assert BEFORE["n"] == "1c7c3b46fad35c10"


def test_moving_a_definition_in_its_file_changes_nothing() -> None:
    assert FIRST_LINE > 1
    assert versions(compiled("\n\n\n" + BASE)) == BEFORE
