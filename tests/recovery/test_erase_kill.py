"""An erasure killed with -9 in one step after the other ends with the receipt of one that was not, in both sides."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import headrace as hr
import headrace.app.datasets
import headrace.derivation.worker
import headrace.erasure.places
import headrace.stores.offline.delta  # all of it once, in the process that the others are forked from
from headrace.app.beside import begin_side, beside_of, fill_side
from headrace.app.reconciling import reconcile_all
from tests.e2e.bank import NEEDLE, named_in, run_bank, write_bank
from tests.unit.app.test_beside import records

STEPS = (
    "catch up", "find", "checkpoint", "feature log", "log of side green", "event log", "archive", "trim", "predictions",
    "online store", "look-ups", "others", "store of side green", "files", "wipe",
)  # fmt: skip
KILLED_IN = (
    "find", "feature log", "log of side green", "event log", "archive", "predictions", "others", "store of side green",
    "files", "wipe",
)  # fmt: skip
_SERVER = multiprocessing.get_context("forkserver")


def erase(folder: Path, pipe: Connection) -> None:
    """The work of a process that is killed."""
    with hr.connect(folder) as project:
        project.erase("user", NEEDLE, progress=lambda step: pipe.send(step))
    pipe.send("done")
    time.sleep(60)


def test_an_erasure_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    folder = write_bank(tmp_path / "bank")
    run_bank(folder, 90, model=False)
    with hr.connect(folder) as project:
        begin_side(project.parts, "green", sys.executable)
        fill_side(project.parts, from_beginning=True)
    shutil.copytree(folder, tmp_path / "whole")
    with hr.connect(tmp_path / "whole") as project:
        whole = project.erase("user", NEEDLE)
    dice, told, done = random.Random(20260501), list[str](), False
    for kill_at in (*KILLED_IN, "done"):
        pipe, there = _SERVER.Pipe(duplex=False)
        process = _SERVER.Process(target=erase, args=(folder, there), daemon=True)
        process.start()
        there.close()
        while not done:
            assert pipe.poll(60)
            step = pipe.recv()
            told.append(step)
            done = step == "done"
            if step == kill_at:
                break
        time.sleep(dice.uniform(0.0, 0.02))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with suppress(EOFError):  # what it came to before it was killed
            while pipe.poll():
                told.append(pipe.recv())
        pipe.close()
        with hr.connect(folder) as project:
            if any(one.ended for one in project.erasures()):
                break
    # Each step was begun again where it had been cut short, and none that was done.
    assert [step for step in told if step != "done"] == sorted(
        [step for step in told if step != "done"], key=STEPS.index
    )
    assert len(told) > len(STEPS)
    with hr.connect(folder) as project:
        receipt = project.erase("user", NEEDLE) if not project.erasures()[0].ended else project.erasures()[0]
        assert [one for one in project.erasures() if one.records] == [receipt]
        assert {one.place: one.records for one in receipt.places} == {one.place: one.records for one in whole.places}
        assert (receipt.repaired > 0, receipt.remains) == (True, whole.remains)
        assert named_in(folder) == []
        assert reconcile_all(project.parts).wrong == 0
        with beside_of(project.parts) as beside:
            assert records(beside) == records(project.parts)
