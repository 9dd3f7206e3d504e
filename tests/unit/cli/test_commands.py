"""The command line, from an empty folder to an audited prediction."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from headrace.cli.main import main
from tests.e2e.shop import now, orders, outcomes, write_shop

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with 400 orders from files, and one trained version; tests add to it only."""
    shop = write_shop(tmp_path_factory.mktemp("cli") / "shop")
    past = orders(400, now() - timedelta(hours=2), step_s=1000)
    pq.write_table(pa.Table.from_pylist(past).cast(_times(pa.Table.from_pylist(past))), shop / "orders.parquet")
    lines = "\n".join(json.dumps(row) for row in outcomes(past))
    (shop / "outcomes.ndjson").write_text(lines + '\n{"outcome_id": "bad", "order": 7}\n')
    (shop / "profiles.csv").write_text("user,age,city,at\nu1,30,Ulm,2026-01-01T00:00:00Z\nu2,,,2026-01-01T00:00:00Z\n")
    return shop


def _times(table: pa.Table) -> pa.Schema:
    """The schema with times where ISO texts stand."""
    at = table.column_names.index("at")
    return table.schema.set(at, pa.field("at", pa.timestamp("us", "UTC")))


@pytest.fixture
def run(folder: Path) -> Run:
    def invoke(*arguments: str, **keywords: Any) -> Result:
        return CliRunner().invoke(main, [*arguments, "--project", str(folder)], **keywords)

    return invoke


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Path:
    """The shop after `publish`, `put` and `train`."""
    for arguments in (
        ["apply", "--yes"],
        ["publish", "order", str(folder / "orders.parquet")],
        ["publish", "outcome", str(folder / "outcomes.ndjson")],
        ["put", "profile", str(folder / "profiles.csv")],
        ["train", "risk"],
        ["promote", "risk", "1", "--why", "the first one"],
    ):
        done = CliRunner().invoke(main, [*arguments, "--project", str(folder)])
        assert done.exit_code == 0, (arguments, done.output)
    return folder


def answer(done: Result) -> dict[str, Any]:
    """The one line of JSON that --json gives."""
    assert done.stdout.count("\n") == 1, done.output
    return dict(json.loads(done.stdout))


def test_check_counts_or_names_file_line_and_cure(tmp_path: Path) -> None:
    shop = write_shop(tmp_path)
    done = CliRunner().invoke(main, ["check", "--project", str(shop)])
    assert done.output == "2 streams, 1 table, 1 group, 1 view, 1 model: ok\n"
    text = (shop / "features.py").read_text().replace("hr.last(Order.amount)", 'hr.last(Order.amount, window="7x")')
    (shop / "features.py").write_text(text)
    done = CliRunner().invoke(main, ["check", "--project", str(shop)])
    assert done.exit_code == 1
    assert "features.py:" in done.stderr
    assert "Spend.last" in done.stderr
    assert "Traceback" not in done.output
    done = CliRunner().invoke(main, ["check", "--project", str(shop), "--json"])
    assert done.exit_code == 1
    assert answer(done)["ok"] is False


def test_plan_shows_and_apply_asks(tmp_path: Path) -> None:
    shop = write_shop(tmp_path)
    at = ["--project", str(shop)]
    planned = CliRunner().invoke(main, ["plan", *at])
    assert "+ group spend" in planned.output
    refused = CliRunner().invoke(main, ["apply", *at], input="n\n")
    assert refused.exit_code == 1
    assert answer(CliRunner().invoke(main, ["plan", "--json", *at]))["changes"]
    assert CliRunner().invoke(main, ["apply", "--json", *at]).exit_code == 1
    applied = CliRunner().invoke(main, ["apply", *at], input="y\n")
    assert applied.exit_code == 0
    assert "applied:" in applied.output
    assert CliRunner().invoke(main, ["plan", *at]).output == "nothing changes\n"


def test_a_backfill_says_what_it_read_and_what_is_next(tmp_path: Path) -> None:
    shop = write_shop(tmp_path)
    at = ["--project", str(shop)]
    (shop / "orders.ndjson").write_text("\n".join(json.dumps(row) for row in orders(20, now())))
    assert CliRunner().invoke(main, ["publish", "order", str(shop / "orders.ndjson"), *at]).exit_code == 0
    assert CliRunner().invoke(main, ["backfill", *at]).output == "no group has to be computed\n"
    features = shop / "features.py"
    features.write_text(
        features.read_text().replace('window=["1h", "7d"]', 'window=["2h", "8d"]').replace("7d", "8d") + "\n"
    )
    found = answer(CliRunner().invoke(main, ["backfill", "spend", "--json", *at]))
    assert (found["names"], found["events"], found["due"]) == (["spend"], 20, ["spend"])
    assert found["positions"] == {"order": [20]}
    assert "publish with: headrace apply" in CliRunner().invoke(main, ["backfill", *at]).output
    refused = CliRunner().invoke(main, ["backfill", "spent", *at])
    assert refused.exit_code == 1
    assert "did you mean spend" in refused.stderr


def test_publish_counts_what_came_and_what_did_not_fit(loaded: Path, run: Run) -> None:
    line = b'{"order_id":"p1","user":"u9","amount":1,"at":"2026-01-01T00:00:00Z"}\n'
    done = run("publish", "order", "-", input=line + b'{"order_id":"p2"}\n')
    assert done.output == "2 appended, 1 dead letter (see headrace dead list)\n"
    assert run("publish", "order", "-", input=b"").exit_code == 1
    empty = loaded / "empty.parquet"
    empty.touch()
    done = run("publish", "order", str(empty))
    assert done.exit_code == 1
    assert "empty.parquet" in done.stderr
    done = run("publish", "orders", str(loaded / "orders.parquet"))
    assert "did you mean order" in done.stderr


def test_put_is_all_or_nothing(loaded: Path, run: Run) -> None:
    file = loaded / "wrong.csv"
    file.write_text("user,age,city,at\nu7,30,Ulm,2026-01-01T00:00:00Z\nu8,old,,2026-01-01T00:00:00Z\n")
    done = run("put", "profile", str(file))
    assert done.exit_code == 1
    assert "row 1" in done.stderr
    assert "age" in done.stderr
    assert answer(run("get", "profile", "user=u7", "--json")) == {"found": False, "row": None}
    assert run("get", "profile", "user=u7").exit_code == 1


def test_get_and_online_show_values(loaded: Path, run: Run) -> None:
    row = answer(run("get", "profile", "user=u1", "--json"))["row"]
    assert (row["age"], row["city"], row["at"]) == (30, "Ulm", "2026-01-01T00:00:00Z")
    assert answer(run("get", "spend", "user=u1", "--json"))["row"]["n_7d"] > 30
    assert "age   null" in run("get", "profile", "user=u2").output
    seen = answer(run("online", "order", "order_id=a", "user=u1", "amount=20", "--json"))
    assert seen["row"]["profile__age"] == 30
    assert seen["position"]["streams"]["outcome"] == [401]
    assert run("online", "order", "order_id=a", "usr=u1").exit_code == 2


def test_history_writes_a_training_set(loaded: Path, run: Run) -> None:
    out = loaded / "train.parquet"
    facts = answer(run("history", "risk", "-o", str(out), "--json"))
    table = pq.read_table(out)
    assert table.num_rows == facts["rows"] == 400
    assert table["label"].to_pylist() == [amount > 40 for amount in table["amount"].to_pylist()]
    assert facts["waiting"] == 0
    assert len(facts["snapshot"]) == 16
    spine = loaded / "spine.csv"
    spine.write_text("user,at,note\nu1,2026-01-01T00:00:00Z,x\n")
    assert answer(run("history", "spend", "--rows", str(spine), "--json"))["columns"] == 9
    assert run("history", "risk", "-o", str(loaded / "train.xls")).exit_code == 2


def test_a_data_set_is_made_shown_verified_and_deleted(loaded: Path, run: Run) -> None:
    until = (now() - timedelta(hours=1)).isoformat()
    made = answer(run("dataset", "june", "risk", "--until", until, "--negatives", "1", "--seed", "3", "--json"))
    assert (made["version"], made["query"]["seed"], made["positives"] * 2) == (1, 3, made["rows"])
    out = loaded / "june.csv"
    shown = run("dataset", "june", "--verify", "-o", str(out))
    assert "read again: every bit is equal" in shown.output
    assert len(out.read_text().splitlines()) == made["rows"] + 1
    assert [info["name"] for info in answer(run("datasets", "--json"))["datasets"]] == ["june"]
    assert "june" in run("datasets").output
    run("dataset", "whole", "risk", "--until", until)
    trained = answer(run("train", "risk", "--data", "whole@1", "--json"))
    assert trained["snapshot"]["dataset"]["name"] == "whole"
    assert ", of data set whole version 1\n" in run("train", "risk", "--data", "whole").output
    refused = run("train", "risk", "--data", "june")
    assert (refused.exit_code, "the rows have weights" in refused.stderr) == (1, True)
    assert run("train", "risk", "--data", "whole", "--until", until).exit_code == 2
    assert run("dataset", "whole", "--delete").output == "deleted whole version 1\n"
    assert run("dataset", "june", "--delete").output == "deleted june version 1\n"
    assert run("datasets").exit_code == 1
    assert run("dataset", "june").exit_code == 1


def test_a_snapshot_is_written(loaded: Path, run: Run) -> None:
    out = loaded / "all.parquet"
    facts = answer(run("snapshot", "order", "-o", str(out), "--json"))
    assert pq.read_table(out)["user"].to_pylist()[:3] == ["u0", "u1", "u2"]
    assert facts["rows"] >= 10
    assert "rows x" in run("snapshot", "spend").output


def test_a_model_is_trained_judged_promoted_scored_and_audited(loaded: Path, run: Run) -> None:
    trained = answer(run("train", "risk", "--json"))
    number = str(trained["version"])
    assert trained["metrics"]["average_precision"] > 0.9
    judged = run("evaluate", "risk", number)
    assert judged.exit_code == 1
    assert "promote: no" in judged.output
    moved = run("promote", "risk", number, "--why", "a try")
    assert moved.output == f"champion: 1 -> {number}\n"
    assert run("rollback", "risk", "--why", "alarm 17").output == f"champion: {number} -> 1\n"
    scored = answer(run("score", "risk", "order_id=s1", "user=u1", "amount=60", "--json"))
    assert (scored["version"], scored["degraded"]) == (1, [])
    assert scored["value"] > 0.5
    audited = run("audit", scored["id"])
    assert audited.exit_code == 0
    assert "9 of 9 values equal as served" in audited.output
    everything = answer(run("audit", "--model", "risk", "--json"))
    assert everything["differing"] == 0
    assert everything["checked"] == 9 * everything["predictions"]
    refused = run("score", "risk", "order_id=s1", "user=u1", "amount=60", "--explain")
    assert refused.exit_code == 1
    assert "LightGBM" in refused.stderr


def test_search_describe_status_and_doctor(loaded: Path, run: Run) -> None:
    found = answer(run("search", "spent", "--json"))["found"]
    assert [record["name"] for record in found] == ["spend"]
    assert run("search", "zebra").exit_code == 1
    assert "window_us: 7d" in run("describe", "spend.n_7d").output
    assert answer(run("describe", "risk", "--json"))["reads"] == ["view order", "stream outcome (truth)"]
    assert "bits" in run("statistics", "risk").output.splitlines()[1]
    assert answer(run("statistics", "order", "--json"))["labelled"] is False
    assert "in risk: spend__n_7d" in run("describe", "spend.n_7d").output
    assert answer(run("describe", "spend.n_7d", "--json"))["lineage"] == ["group spend", "stream order"]
    status = answer(run("status", "--json"))
    assert {layer["name"]: layer["alive"] for layer in status["layers"]} == dict.fromkeys(
        ("compute", "ingest", "serve", "schedule"), False
    )
    assert status["models"][0]["name"] == "risk"
    assert status["dead_letters"] >= 1
    assert "dead letters" in run("status").output
    examined = answer(run("doctor", "--json"))
    assert examined["ok"] is True
    assert {"event log", "online store", "definitions", "clock"} <= {f["what"] for f in examined["findings"]}


def test_doctor_names_what_is_wrong_and_the_cure(tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text("import headrace as hr\nraise ValueError('half done')\n")
    done = CliRunner().invoke(main, ["doctor", "--project", str(tmp_path)])
    assert done.exit_code == 1
    assert "BAD definitions" in done.output
    assert "half done" in done.output
    assert "headrace check" in done.output


def test_a_report_is_written(loaded: Path, run: Run) -> None:
    file = loaded / "report.html"
    done = run("report", "risk", "-o", str(file))
    assert done.exit_code == 0, done.output
    assert "Will this order go bad?" in file.read_text()


def test_one_layer_runs_until_nothing_waits(loaded: Path, run: Run) -> None:
    assert answer(run("run", "compute", "--once", "--json"))["layer"] == "compute"
    assert run("run", "ingest", "--once").exit_code == 0
    assert (loaded / ".headrace" / "compute.checkpoint").is_file()
    beat = json.loads((loaded / ".headrace" / "run" / "ingest.json").read_text())
    assert (beat["layer"], beat["lag"], beat["problem"]) == ("ingest", 0, "")
    assert run("run", "serve", "--once").exit_code == 1


def test_who_can_be_no_canary_is_told(loaded: Path, run: Run) -> None:
    done = run("promote", "risk", "1", "--to", "canary", "--share", "0.1")
    assert (done.exit_code, "version 1 is the champion" in done.output) == (1, True)
    done = run("promote", "risk", "1", "--share", "0.1")
    assert (done.exit_code, 'give to="canary"' in done.output) == (1, True)
    assert run("promote", "risk", "1", "--to", "king").exit_code == 2


def test_init_starts_a_project_that_checks(tmp_path: Path, loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["init", "shop"]).exit_code == 0
    assert "1 stream" in CliRunner().invoke(main, ["check", "--project", "shop"]).output
    done = CliRunner().invoke(main, ["init", "mine", "--from", str(loaded / "orders.parquet"), "--json"])
    assert answer(done)["stream"] == "orders"
    assert "ok" in CliRunner().invoke(main, ["check", "--project", "mine"]).output
    # What is never twice names the event, and who comes again is its key.
    written = (tmp_path / "mine" / "features.py").read_text()
    assert "order_id: hr.Field[str] = hr.id()" in written
    assert "user: hr.Field[str] = hr.key(User)" in written
    assert CliRunner().invoke(main, ["init", "mine"]).exit_code == 1
