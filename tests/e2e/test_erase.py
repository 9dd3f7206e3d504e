"""Erasing a user of a bank: behind the adapters' backs nothing names them, and nobody else's values move."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

import headrace as hr
from headrace.app.locks import FolderLock
from headrace.app.reconciling import reconcile_all
from headrace.core.errors import Busy, Erased, NotFound, SchemaError
from headrace.engines.stream.worker import decode_head
from headrace.ingestion.reconcile import rebuild
from headrace.retrieval.predictions import read_predictions
from tests.e2e.bank import MERCHANTS, NEEDLE, OTHER, USERS, named_in, run_bank, write_bank


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = write_bank(tmp_path_factory.mktemp("erase") / "bank")
    return folder, run_bank(folder, 180)


@pytest.fixture
def bank(template: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> Path:
    shutil.copytree(template[0], tmp_path / "bank")
    return tmp_path / "bank"


def seen(project: hr.Project, at: str) -> dict[str, Any]:
    """Everything of others that is read online, but what is made of who pays."""
    found: dict[str, Any] = {}
    others = [user for user in USERS if user != NEEDLE]
    for user in others:
        found |= {f"{group} {user}": project.get(group, user=user, at=at) for group in ("profile",)}
        found[f"sent {user}"] = project.get("sent", sender=user, at=at)
        found[f"got {user}"] = project.get("got", receiver=user, at=at)
        for merchant in MERCHANTS:
            found[f"pair {user} {merchant}"] = project.get("pair", sender=user, merchant=merchant, at=at)
            found[f"owned {user} {merchant}"] = project.get("owned", user=user, merchant=merchant, at=at)
    for merchant in MERCHANTS:
        found |= {f"{group} {merchant}": project.get(group, merchant=merchant, at=at) for group in ("shop", "ages")}
    found |= {f"device d{i}": project.get("devices", device=f"d{i}", at=at) for i in range(4)}
    return {name: repr(vars(value)) if hasattr(value, "__dict__") else repr(value) for name, value in found.items()}


def positions(project: hr.Project) -> Any:
    logs = (project.parts.raw, project.parts.features, project.parts.internal)
    held = [{(t, p): log.end(t, p) for t, n in log.topics().items() for p in range(n)} for log in logs]
    return held, project.parts.online.position(), project.parts.past.computed()


def predictions(project: hr.Project) -> dict[str, dict[str, Any]]:
    """Requests by prediction id, from the log."""
    batch, _ = read_predictions(project.parts.internal, "risk", project.parts.plan.views["pay"])
    names = ("sender", "receiver")
    columns = [batch.request[name].to_pylist() for name in names]
    return {id: dict(zip(names, row, strict=True)) for id, *row in zip(batch.ids, *columns, strict=True)}


def test_nothing_names_who_was_erased_and_nobody_elses_values_move(
    bank: Path, template: tuple[Path, list[dict[str, Any]]]
) -> None:
    rows = template[1]
    at = rows[-1]["at"]
    with hr.connect(bank) as project:
        before, stood, asked = seen(project, at), positions(project), predictions(project)
        assert len(named_in(bank)) >= 6  # else the search finds nothing for a reason of its own
        assert project.get("sent", sender=NEEDLE, at=at).n["7d"] > 0
        receipt = project.erase("user", NEEDLE)
        assert named_in(bank) == []
        assert (seen(project, at), positions(project)) == (before, stood)
        assert project.get("sent", sender=NEEDLE, at=at).n["7d"] == 0
        assert project.get("profile", user=NEEDLE) is None

        # What is made of who pays is made of the others alone, as the events say.
        for merchant in MERCHANTS:
            got = project.get("customers", merchant=merchant, at=at)
            times = [row for row in rows if row["merchant"] == merchant and row["at"] < at]
            others = Counter(row["sender"] for row in times if row["sender"] != NEEDLE)
            most = max(others.values())
            assert got.users == len(others)
            assert got.best == min(user for user, n in others.items() if n == most)

        # Predictions of the user say so, all others are what they were served from.
        gone = {id for id, request in asked.items() if NEEDLE in request.values()}
        assert 0 < len(gone) < len(asked)
        changed = 0
        for id in asked:
            if id in gone:
                with pytest.raises(Erased, match="was erased"):
                    project.audit(id)
                continue
            found = project.audit(id)
            assert found.equal
            changed += found.audit.erased
        # How many users a shop has was made of them, and cannot be made again.
        total = project.model("risk").audit()
        assert (total.differing, total.erased, total.rows) == (0, changed, len(asked) - len(gone))
        assert 0 < changed <= total.rows
        with pytest.raises(NotFound, match="there is no prediction"):
            project.audit("p-no-1")

        # The training set has their requests no more, and neither has the data set, which can be read again.
        mine = sum(NEEDLE in (row["sender"], row["receiver"]) for row in rows)
        assert len(project.history("pay")) == len(rows) - mine
        kept = project.dataset("all")
        assert {*kept.rows.columns["sender"].to_pylist()} == {*USERS} - {NEEDLE}

        told = {place.place: place.records for place in receipt.places}
        assert told["event log pay"] >= mine
        assert told["internal log predictions"] == len(gone)
        assert told["archive events/pay"] == mine
        assert any(name.startswith("data set all/1") for name in told)
        assert "versions of models" in receipt.remains[0]
        assert NEEDLE not in str(receipt) + msgspec.json.encode(project.erasures()).decode()
        change = project.parts.catalog.changes.list(action="erase")[0]
        assert (change.subject, change.detail["records"]) == ("user", receipt.records)


def test_what_is_served_after_it_is_what_logs_and_archive_say(bank: Path) -> None:
    with hr.connect(bank) as project:
        project.erase("user", NEEDLE)
        found = reconcile_all(project.parts)
        assert (found.wrong, found.compared > 20) == (0, True)
        online = project.parts.online
        held = dict(online.scan())
        for key in held:
            online.write([(key, None)], b"")
        parts = project.parts
        rebuild(parts.plan, parts.features, online, parts.expected())
        again = {key: record for key, record in online.scan() if not key.startswith(b"\xff")}
        assert again == held


def test_verdicts_stay_when_all_is_judged_again(bank: Path, template: tuple[Path, list[dict[str, Any]]]) -> None:
    rows = template[1]
    with hr.connect(bank) as project:
        project.erase("user", NEEDLE)
    (bank / ".headrace" / "compute.checkpoint").unlink()
    with hr.connect(bank) as project:
        end = project.parts.features.end("windows", 0)
        other = next(row for row in rows[-24:] if NEEDLE not in (row["sender"], row["receiver"]))
        project.publish("pay", [other, other | {"pay_id": "new", "at": rows[-1]["at"]}])
        commit = project.parts.features.read("windows", 0, end)[0]
        span = decode_head(commit.payload).streams["pay"]
        assert [code for _, _, code in span.exceptions] == [1]  # a duplicate, though its first was long ago
        assert reconcile_all(project.parts).wrong == 0
        assert project.erase("user", NEEDLE).places == ()


def test_events_can_be_dropped_whole(bank: Path) -> None:
    with hr.connect(bank) as project:
        receipt = project.erase("user", NEEDLE, events="drop")
        assert named_in(bank) == []
        assert receipt.repaired > 0
        assert reconcile_all(project.parts).wrong == 0
        pays = project.parts.past.events("pay", ["sender", "receiver", "merchant", "amount"])
        lost = pays.filter(pays["amount"].is_null())
        assert lost.num_rows > 0
        assert all(lost[name].null_count == lost.num_rows for name in ("sender", "receiver", "merchant"))


def test_what_cannot_be_erased_is_refused_before_anything_happens(bank: Path) -> None:
    with hr.connect(bank) as project:
        with pytest.raises(SchemaError, match='no entity "uzer"; fields are keys of: merchant, user'):
            project.erase("uzer", NEEDLE)
        with pytest.raises(SchemaError, match='give "unlink" or "drop"'):
            project.erase("user", NEEDLE, events="all")
        assert project.erase("user", NEEDLE, dry_run=True).records > 100
        assert len(named_in(bank)) >= 6
        assert project.erasures() == []
        with hr.connect(bank) as other, FolderLock(other.settings.state, "compute"), pytest.raises(Busy):
            project.erase("user", NEEDLE)
        assert project.erase("user", OTHER).records > 100
        assert len(named_in(bank)) >= 6
