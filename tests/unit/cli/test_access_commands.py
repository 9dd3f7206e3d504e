"""Dead letters, keys and the log of changes, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from headrace.cli.main import main
from tests.e2e.shop import write_shop

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Commands on a shop with one outcome that counts, one that does not, and a profile."""
    folder = write_shop(tmp_path / "shop")
    good = '{"outcome_id": "good", "order": "o0", "bad": false, "at": "2026-01-01T00:00:00Z"}'
    (tmp_path / "outcomes.ndjson").write_text(good + '\n{"outcome_id": "bad", "order": 7}\n')
    (tmp_path / "profiles.csv").write_text("user,age,city,at\nu1,30,Ulm,2026-01-01T00:00:00Z\n")

    def invoke(*arguments: str, **keywords: Any) -> Result:
        return CliRunner().invoke(main, [*arguments, "--project", str(folder)], **keywords)

    assert invoke("apply", "--yes").exit_code == 0
    assert invoke("publish", "outcome", str(tmp_path / "outcomes.ndjson")).exit_code == 0
    assert invoke("put", "profile", str(tmp_path / "profiles.csv")).exit_code == 0
    return invoke


def answer(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_dead_letters_are_listed_shown_dropped_and_fixed(run: Run) -> None:
    listed = answer(run("dead", "list", "--stream", "outcome", "--json"))
    assert (listed["total"], listed["counts"][0]["count"], listed["letters"][0]["stream"]) == (1, 1, "outcome")
    name = listed["letters"][0]["id"]
    assert name in run("dead", "list", "--stream", "outcome", "--field", listed["letters"][0]["field"]).output
    assert run("dead", "list", "--since", "2100-01-01").output == "no dead letters\n"
    assert answer(run("dead", "show", name, "--json"))["payload"] == '{"outcome_id":"bad","order":7}'
    assert "sent     {" in run("dead", "show", name).output
    tried = run("dead", "replay", "--stream", "outcome", "--dry-run")
    assert (tried.exit_code, tried.output.splitlines()[0]) == (1, "0 would be published again, 1 do not fit")
    assert run("dead", "fix", name, "order=o1").exit_code == 1
    assert run("dead", "fix", name, "colour=red").exit_code == 2
    assert run("dead", "fix", "nonsense", "order=o1").exit_code == 1
    assert run("dead", "drop", name).exit_code == 2
    assert run("dead", "drop", "--why", "all").exit_code == 1
    assert run("dead", "drop", name, "--why", "nobody knows").output == "1 dropped\n"
    assert "[dropped by" in run("dead", "list", "--state", "all").output
    fixed = run(
        "dead", "fix", name, "order=o1", "bad=true", "at=2026-01-01T00:00:00Z", "--why", "asked the shop", "--json"
    )
    assert answer(fixed)["mark"]["published"] == "outcome/0/2"
    assert "asked the shop" in run("dead", "show", name).output
    whole = run("dead", "fix", name, "--event", "-", input='{"outcome_id": "bad"}')
    assert (whole.exit_code, "was fixed by" in whole.stderr) == (1, True)


def test_keys_are_shown_once_and_what_was_done_is_logged(run: Run) -> None:
    made = answer(run("keys", "make", "desk", "--scope", "read", "--read", "spend", "--rate", "5", "--json"))
    assert (made["scopes"], made["reads"], made["rate"], made["burst"]) == (["read"], ["spend"], 5.0, 5)
    assert run("keys", "make", "desk", "--scope", "read").exit_code == 1
    assert run("keys", "make", "x", "--scope", "read", "--read", "spent").exit_code == 2
    assert run("keys", "make", "x", "--read", "spend").exit_code == 2
    assert run("keys", "make", "x", "--expires", "soon").exit_code == 2
    listed = run("keys", "list").output
    assert ("desk" in listed, "read of spend, 5/s" in listed, made["key"] in listed) == (True, True, False)
    assert run("keys", "revoke", "desk").exit_code == 0
    assert run("keys", "revoke", "desk").exit_code == 1
    logged = answer(run("changes", "--limit", "100", "--json"))["changes"]
    told = [(one["action"], one["subject"]) for one in logged]
    assert told == [("keys revoke", "desk"), ("keys make", "desk"), ("put", "profile"), ("apply", "definitions")]
    assert logged[-1]["detail"]["changes"][0].startswith("added ")
    assert made["key"] not in json.dumps(logged)
    assert "keys make" in run("changes", "--action", "keys").output
    assert run("changes", "--who", "nobody at all").output == "no changes\n"
