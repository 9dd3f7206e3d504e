"""The operator's page is a session: its commands are run in their order and answer what it shows."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from headrace.catalog.catalog import Catalog
from headrace.catalog.records import DefinitionRecord
from headrace.cli.main import main
from headrace.core.time import SimulatedClock
from tests.e2e.shop import now, orders, write_shop
from tests.postgres import database, engine

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
BAD = {"order_id": "bad", "user": "u1", "amount": "ten", "at": "2026-05-01T10:00:00Z"}


def session() -> list[tuple[str, list[str]]]:
    """The commands of the page and the lines that they should print."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def run(command: str) -> str:
    """What a command prints; it must succeed."""
    if not command.startswith("headrace "):
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout
    result = CliRunner().invoke(main, shlex.split(command)[1:], catch_exceptions=False)
    assert result.exit_code == 0, (command, result.output)
    return result.output


def pattern(lines: list[str]) -> str:
    """The expected lines, with "..." for anything, over several lines where it stands alone."""
    parts = [r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n" for line in lines]
    return "".join(parts)


@pytest.mark.postgres
def test_a_catalog_in_postgres_comes_back_from_its_dump(tmp_path: Path) -> None:
    with database() as url:
        dump = tmp_path / "catalog.sql"
        catalog = Catalog(url, SimulatedClock(1), env="prod")
        catalog.apply([DefinitionRecord("group", "Spend", "v1")])
        subprocess.run(["pg_dump", "--schema=headrace_prod", f"--file={dump}", url], check=True)
        catalog.apply([])
        catalog.close()
        plain = engine(url)
        with plain.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA headrace_prod CASCADE")
        subprocess.run(
            ["psql", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={dump}", url], check=True, capture_output=True
        )
        catalog = Catalog(url, SimulatedClock(1), env="prod")
        assert [found.record.name for found in catalog.definitions()] == ["Spend"]
        catalog.close()


def test_the_commands_of_the_page_answer_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shop(tmp_path / "shop")
    rows = [*orders(300, now() - timedelta(hours=2), step_s=600), BAD]
    (folder / "orders.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(folder)
    commands = session()
    assert len(commands) > 25
    for command, expected in commands:
        output = run(command)
        assert re.fullmatch(pattern(expected), output), f"$ {command}\n{output}\nthe page says:\n" + "\n".join(expected)
    before, after = (pq.read_table(folder / name).to_pylist() for name in ("before.parquet", "after.parquet"))
    assert repr(before) == repr(after)
    assert len(before) == 301
