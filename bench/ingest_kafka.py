"""How fast events become visible through a Kafka broker: published, computed, ingested, and readable online.

The last line is one JSON object. The project, the two worker processes and the way of measuring are those of
`bench/stream.py`; but all logs lie on the broker: raw events as one JSON message each, the feature log in transactions.
The broker is a real one, on this machine: `make services ARGS=kafka`.

`events_per_s`: a backlog is in the raw topic when the workers are let go; events over the time until the last is
visible. `visible_p99_s`: events are published at a steady rate, `--rate` a second, in blocks of 20 ms; seconds from the
moment when a block was due until the online store reflects it. `publish_per_s`: events over the time that publishing
the backlog took, in blocks of 1,000, each confirmed. Some answers are compared with the oracle, value by value; one
that differs ends the run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
from stream import (
    APART_US,
    BLOCK,
    KEYS,
    STEP,
    STREAM,
    Options,
    Published,
    Source,
    Workers,
    backlog,
    check,
    parts_in,
    steady,
)

from harness import versions
from headrace.core.time import US_PER_HOUR, US_PER_MINUTE

URL_FILE = Path(__file__).parents[1] / ".services" / "kafka.url"


def measure(options: Options, folder: Path, log: str) -> dict[str, object]:
    """Run everything in `folder` and below a project of its own on the broker; return the record to print."""
    source, made = Source(options), Published()
    start_us = time.time_ns() // 1_000
    parts = parts_in(folder, f"{log}/bench-{uuid.uuid4().hex[:12]}")
    parts.raw.create(STREAM)
    parts.features.create("windows")
    workers = Workers(folder, parts)
    try:
        everyone = np.stack([np.arange(options.each)] * len(KEYS), axis=1)
        backlog(parts, workers, made, everyone, source.amounts(options.each), start_us - 3 * US_PER_HOUR)
        records = parts.online.count()
        # What is compiled when it is first needed shall not count.
        warm = min(options.events, STEP // 2)
        earlier_us = start_us - 2 * US_PER_HOUR - US_PER_MINUTE
        backlog(parts, workers, made, source.zipf(warm), source.amounts(warm), earlier_us)
        workers.hold()
        keys, amounts = source.zipf(options.events), source.amounts(options.events)
        times = start_us - US_PER_HOUR + APART_US * np.arange(options.events)
        began = time.perf_counter()
        for at in range(0, options.events, BLOCK):
            stop = min(at + BLOCK, options.events)
            made.add(parts, keys[at:stop], amounts[at:stop], times[at:stop])
        published_s = time.perf_counter() - began
        workers.go()
        visible_s = workers.wait(made.end)
        at_rate = steady(parts, workers, made, source.zipf, source.amounts, options.rate, options.seconds)
    finally:
        workers.close()
    checked = check(parts, made, source, options)
    parts.close()
    return {
        "bench": "ingest_kafka",
        "params": {
            "groups": len(parts.plan.groups),
            "aggregations": sum(len(group.aggregates) for group in parts.plan.groups.values()),
            "entities": records,
            "events": options.events,
            "rate": options.rate,
            "seconds": options.seconds,
            "published": made.end,
            "seed": options.seed,
        },
        "figures": {
            "events_per_s": round(options.events / visible_s),
            "visible_p99_s": at_rate["p99_s"],
            "publish_per_s": round(options.events / published_s),
            "at_rate": at_rate,
        },
        "checked": checked,
        "versions": versions("numpy", "numba", "confluent-kafka"),
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", default="", help="address of the broker; default: that of make services")
    parser.add_argument("--entities", type=int, default=100_000, help="of all three kinds together")
    parser.add_argument("--events", type=int, default=300_000, help="of the backlog, by Zipf's law")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the steady rate")
    parser.add_argument("--rate", type=int, default=20_000, help="steady events per second")
    parser.add_argument("--checked", type=int, default=500, help="answers that are compared with the oracle")
    parser.add_argument("--seed", type=int, default=7)
    given = vars(parser.parse_args())
    log = given.pop("log")
    if not log and not URL_FILE.is_file():
        raise SystemExit("no broker: start one with make services ARGS=kafka, or give its address with --log")
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        print(json.dumps(measure(Options(**given), Path(folder), log or URL_FILE.read_text().strip())))


if __name__ == "__main__":
    main()
