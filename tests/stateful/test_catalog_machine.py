"""The catalog against dictionaries and lists, under any sequence of calls by two that hold it open."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from headrace.catalog.catalog import Catalog
from headrace.catalog.records import DefinitionRecord, RunStatus
from headrace.core.errors import NotFound, PlanError
from headrace.core.time import SimulatedClock
from headrace.testing.capabilities import capability
from tests.postgres import database
from tests.services import address

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
_RECORDS = st.lists(
    st.builds(
        DefinitionRecord,
        kind=st.sampled_from(["group", "table"]),
        name=st.sampled_from(["Spend", "spend", "Visits"]),
        version=st.sampled_from(["v1", "v2"]),
        body=st.dictionaries(_TEXT, st.integers() | st.none(), max_size=1),
        owner=st.sampled_from(["", "a@x.example"]),
    ),
    max_size=4,
    unique_by=lambda record: (record.kind, record.name),
)
_JOBS = st.sampled_from(["train", "refresh"])


@capability("any sequence of calls, against a model")
class SqliteCatalogMachine(RuleBasedStateMachine):
    """In a file."""

    port = "Catalog"
    adapter = "SQLite"

    def __init__(self) -> None:
        super().__init__()
        self.resources = ExitStack()
        self.url = self.place()
        self.catalogs = [self.open(), self.open()]
        self.active: dict[tuple[str, str], DefinitionRecord] = {}
        self.generation = 0
        self.runs: dict[int, tuple[str, str, dict[str, Any]]] = {}
        self.alerts: dict[int, tuple[str, bool]] = {}
        self.settings: dict[str, Any] = {}

    def place(self) -> str:
        folder = tempfile.mkdtemp(prefix="headrace-catalog-")
        self.resources.callback(shutil.rmtree, folder)
        return str(Path(folder) / "catalog.db")

    def open(self) -> Catalog:
        return Catalog(self.url, SimulatedClock(7))

    @rule(pick=st.integers(0, 1), records=_RECORDS, settings=st.dictionaries(st.sampled_from("xy"), st.integers()))
    def apply(self, pick: int, records: list[DefinitionRecord], settings: dict[str, int]) -> None:
        changes = self.catalogs[pick].apply(records, generation=self.generation, settings=settings)
        wanted = [(r.kind, r.name, self._change(r)) for r in records]
        given = {(r.kind, r.name): r for r in records}
        wanted += [(*at, "removed") for at in sorted(self.active) if at not in given]
        assert [(c.kind, c.name, c.change) for c in changes] == wanted
        if given != self.active or any(self.settings.get(k, "none") != v for k, v in settings.items()):
            self.generation += 1
        self.active = given
        self.settings |= settings

    def _change(self, record: DefinitionRecord) -> str:
        before = self.active.get((record.kind, record.name))
        if before is None:
            return "added"
        return "unchanged" if before.version == record.version else "changed"

    @rule(pick=st.integers(0, 1), records=_RECORDS, off=st.sampled_from([-1, 1]))
    def apply_upon_another_state(self, pick: int, records: list[DefinitionRecord], off: int) -> None:
        with pytest.raises(PlanError, match="meanwhile"):
            self.catalogs[pick].apply(records, generation=self.generation + off, settings={"x": "never"})

    @rule(
        pick=st.integers(0, 1),
        job=_JOBS,
        detail=st.dictionaries(_TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=2),
    )
    def start_run(self, pick: int, job: str, detail: dict[str, float]) -> None:
        run = self.catalogs[pick].start_run(job, "manual", detail=detail)
        assert run > max(self.runs, default=0)
        self.runs[run] = (job, "running", detail)

    @rule(pick=st.integers(0, 1), back=st.integers(0, 4), status=st.sampled_from(["done", "failed", "refused"]))
    def finish_run(self, pick: int, back: int, status: RunStatus) -> None:
        runs = sorted(self.runs)[::-1]
        if back >= len(runs):
            with pytest.raises(NotFound):
                self.catalogs[pick].finish_run(10**9, status)
            return
        self.catalogs[pick].finish_run(runs[back], status)
        job, _, detail = self.runs[runs[back]]
        self.runs[runs[back]] = (job, status, detail)

    @rule(pick=st.integers(0, 1), job=st.none() | _JOBS, reason=_TEXT)
    def abandon(self, pick: int, job: str | None, reason: str) -> None:
        cut = [run for run, (name, status, _) in self.runs.items() if status == "running" and job in (None, name)]
        assert self.catalogs[pick].abandon_runs(reason, job) == len(cut)
        for run in cut:
            self.runs[run] = (self.runs[run][0], "failed", {"error": reason})

    @rule(pick=st.integers(0, 1), subject=_JOBS)
    def raise_alert(self, pick: int, subject: str) -> None:
        self.alerts[self.catalogs[pick].raise_alert("drift", subject)] = (subject, True)

    @rule(pick=st.integers(0, 1), subject=_JOBS)
    def resolve(self, pick: int, subject: str) -> None:
        opened = [alert for alert, (of, still) in self.alerts.items() if still and of == subject]
        assert self.catalogs[pick].resolve_alerts("drift", subject) == len(opened)
        self.alerts |= dict.fromkeys(opened, (subject, False))

    @rule(pick=st.integers(0, 1), name=st.sampled_from("xyz"), value=st.none() | st.lists(_TEXT, max_size=2))
    def set(self, pick: int, name: str, value: Any) -> None:
        self.catalogs[pick].set_setting(name, value)
        self.settings[name] = value

    @rule(pick=st.integers(0, 1))
    def reopen(self, pick: int) -> None:
        self.catalogs[pick].close()
        self.catalogs[pick] = self.open()

    @invariant()
    def both_show_the_same(self) -> None:
        for catalog in self.catalogs:
            found = catalog.definitions()
            assert [d.record for d in found] == [self.active[at] for at in sorted(self.active)]
            assert catalog.generation() == self.generation
            runs = [(run.id, (run.job, run.status, run.detail)) for run in catalog.runs()]
            assert runs == sorted(self.runs.items(), reverse=True)
            still = {alert.id: alert.subject for alert in catalog.alerts(open_only=True)}
            assert still == {alert: subject for alert, (subject, opened) in self.alerts.items() if opened}
            assert [catalog.setting(name, "none") for name in "xyz"] == [self.settings.get(n, "none") for n in "xyz"]

    def teardown(self) -> None:
        for catalog in self.catalogs:
            catalog.close()
        self.resources.close()


class PostgresCatalogMachine(SqliteCatalogMachine):
    """On a server."""

    adapter = "PostgreSQL"

    def place(self) -> str:
        return self.resources.enter_context(database())


def test_a_catalog_behaves_like_dictionaries() -> None:
    run_state_machine_as_test(SqliteCatalogMachine, settings=settings(stateful_step_count=15, max_examples=6))


@pytest.mark.postgres
def test_a_catalog_on_postgres_behaves_like_dictionaries() -> None:
    address("postgres")
    run_state_machine_as_test(PostgresCatalogMachine, settings=settings(stateful_step_count=15, max_examples=3))
