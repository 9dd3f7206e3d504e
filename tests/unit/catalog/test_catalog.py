"""What a catalog on SQLite refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.catalog.catalog import Catalog
from headrace.core.errors import StoreError
from headrace.core.time import SimulatedClock


def test_a_file_that_is_no_catalog_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_bytes(b"these are just notes, long enough to be taken for a header" * 100)
    with pytest.raises(StoreError, match=r"notes\.db cannot be opened"):
        Catalog(path, SimulatedClock())


def test_a_url_is_as_good_as_a_path(tmp_path: Path) -> None:
    first = Catalog(tmp_path / "c.db", SimulatedClock())
    run = first.start_run("train", "manual")
    first.close()
    second = Catalog(f"sqlite:///{tmp_path / 'c.db'}", SimulatedClock())
    assert [r.id for r in second.runs()] == [run]
    with pytest.raises(StoreError, match="PostgreSQL"), second.hold("apply"):
        pass
    second.close()
