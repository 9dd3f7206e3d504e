"""Whatever fails, in whatever order, the end is that of a world in which nothing failed: see `simulated.py`.

200 seeds in CI, 5,000 by `make test-long`.
"""

from __future__ import annotations

import os

import pytest

from headrace.eventlog.base import LogBatch
from headrace.ingestion.materialize import OnlineIngest
from tests.recovery.simulate import failures, main, replayed

SEEDS = 5_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 200
BLOCK = SEEDS // 10


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_nothing_is_lost_doubled_or_wrong_whatever_fails(first: int) -> None:
    found = failures(range(first, first + BLOCK))
    told = "\n".join(
        f"replay with: python -m tests.recovery.simulate --seed {seed}\n{why}" for seed, why in found.items()
    )
    assert not found, "\n".join(told)


def test_a_seed_is_replayed_to_the_letter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "11"]) == 0
    told = capsys.readouterr().out
    assert told.splitlines() == [*replayed(11)[1], "nothing is wrong"]
    assert "silence after raw log" in told


def test_what_is_lost_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ingestion that forgets what it had taken when a read of the log failed, as it once did."""
    take = OnlineIngest._commits_until

    def forgetful(ingest: OnlineIngest, until_us: int, most: int) -> list[LogBatch]:
        taken = take(ingest, until_us, most)
        return taken[1:] if len(taken) > 2 else taken

    monkeypatch.setattr(OnlineIngest, "_commits_until", forgetful)
    found = failures(range(30), most=1)
    assert "AssertionError" in "".join(found.values())
