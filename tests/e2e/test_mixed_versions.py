"""A rolling upgrade: two versions of the package work on the same project, one after the other and at once."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

import headrace as hr
from headrace.core.errors import HeadraceError
from headrace.core.events import FORMAT as BLOCKS
from headrace.engines.stream.commits import FORMAT as COMMITS
from tests.e2e.shop import now, orders, write_shop
from tests.e2e.up import HEADRACE
from tests.e2e.versions import other_version


def publish(python: Path | str, shop: Path, start: int, n: int = 30) -> None:
    """Publish by an interpreter's version, which computes and ingests as well."""
    file = shop / "orders.ndjson"
    file.write_text("\n".join(json.dumps(row) for row in orders(n, now(), start=start)))
    done = subprocess.run(
        [str(python), "-m", "headrace", "publish", "order", str(file), "--project", str(shop)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_an_older_and_a_newer_version_of_the_same_formats_take_turns(tmp_path: Path) -> None:
    shop, newer = write_shop(tmp_path / "shop"), other_version(tmp_path / "next")
    with hr.connect(shop) as project:
        project.publish("order", orders(30, now()))
        publish(newer, shop, 30)  # while the older one has the project open
        project.publish("order", orders(30, now(), start=60))
        assert [project.get("spend", user=f"u{user}").n["7d"] for user in range(10)] == [9] * 10
        assert len(project.history("order")) == 90


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (
            ("engines/stream/commits.py", f"FORMAT = {COMMITS}\n", f"FORMAT = {COMMITS + 1}\n"),
            f"a commit of format {COMMITS + 1}, this version reads {COMMITS}",
        ),
        (
            ("core/events.py", f"FORMAT: Final = {BLOCKS}\n", f"FORMAT: Final = {BLOCKS + 7}\n"),
            f"has format {BLOCKS + 7}; this version reads format {BLOCKS}",
        ),
    ],
)
def test_a_worker_that_meets_a_newer_format_stops_and_names_both(
    tmp_path: Path, edit: tuple[str, str, str], told: str
) -> None:
    shop, newer = write_shop(tmp_path / "shop"), other_version(tmp_path / "next", edit)
    publish(newer, shop, 0)
    with hr.connect(shop) as project, pytest.raises(HeadraceError, match=told):
        project.publish("order", orders(30, now(), start=30))
    done = subprocess.run(
        [*HEADRACE, "run", "compute", "--once", "--project", str(shop)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(told, done.stderr), done.stderr
    with hr.connect(shop) as project:
        assert project.parts.raw.end("order", 0) >= 30  # they are there for a version that can read them
