"""Compiles the kernels and caches them, by running three days of the demo in a scratch folder.

Setting up is the time to do it: else the first run of everything would wait for the compiler.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from headrace.app.demo import example_folder
from headrace.app.replaying import ReplaySpec, start_feeder, wire_replay
from headrace.core.time import parse_duration, parse_time
from headrace.features.discover import load_project


def compile_kernels(state: Path) -> None:
    """Train on two days and score a third: feature computing, ingestion, online and point-in-time reads."""
    spec = ReplaySpec(
        example_folder("flights"),
        state,
        until_us=parse_time("2013-01-04T12:00:00Z"),
        serve_from_us=parse_time("2013-01-03T05:00:00Z"),
        tick_us=parse_duration("5m"),
        seed=7,
    )
    feeder = start_feeder(spec)
    plan = load_project(spec.project)
    run = wire_replay(spec, plan, next(iter(plan.models.values())), feeder=feeder)
    run.run()
    run.skew.finish()
    run.parts.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="headrace-kernels-") as folder:
        compile_kernels(Path(folder) / "state")
