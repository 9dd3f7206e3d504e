"""The view of `bench/online.py` read by Feast from Redis; runs in Feast's own environment.

Takes a folder that holds `asked.json`: where Redis is, the groups with their features, how many entities each has, and
the requests. Values are as many and of the same types as ours, but made up: Feast computes no windows, it looks up what
a job of its user wrote. Prints the figures as one JSON object.
"""

import json
import statistics
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import feast
import numpy as np
import pandas as pd
from feast import types

KINDS = {"float": types.Float64, "int": types.Int64, "bool": types.Bool}
STORE = """\
project: bench
provider: local
registry: {folder}/registry.db
online_store: {{type: redis, connection_string: "{redis}"}}
entity_key_serialization_version: 3
"""


def main() -> None:
    """Write, read, print."""
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "asked.json").read_text())
    (folder / "feature_store.yaml").write_text(STORE.format(folder=folder, redis=asked["redis"]))
    store = feast.FeatureStore(repo_path=str(folder))
    entities, views = [], []
    for name, group in asked["groups"].items():
        entities.append(feast.Entity(name=group["key"], join_keys=[group["key"]], value_type=feast.ValueType.INT64))
        views.append(
            feast.FeatureView(
                name=name,
                entities=[entities[-1]],
                schema=[feast.Field(name=feature, dtype=KINDS[kind]) for feature, kind in group["features"]],
                source=feast.FileSource(path=str(folder / f"{name}.parquet"), timestamp_field="at"),
            )
        )
    store.apply([*entities, *views])
    random, now = np.random.default_rng(7), datetime.now(timezone.utc)
    began, rows = time.perf_counter(), 0
    for name, group in asked["groups"].items():
        n = group["entities"]
        frame = pd.DataFrame({group["key"]: np.arange(n)})
        for feature, kind in group["features"]:
            frame[feature] = random.integers(0, 100, n) if kind == "int" else random.random(n)
        frame["at"] = pd.Timestamp(now)
        store.write_to_online_store(name, frame)
        rows += n
    filled = time.perf_counter() - began
    names = [f"{name}:{feature}" for name, group in asked["groups"].items() for feature, _ in group["features"]]
    requests = asked["requests"]

    def spent(batches: list) -> list[float]:
        taken = []
        for batch in batches:
            began = time.perf_counter()
            found = store.get_online_features(names, batch, full_feature_names=True).to_dict()
            taken.append((time.perf_counter() - began) * 1e6)
            if any(values[0] is None for values in found.values()):
                raise SystemExit("feast gave nulls for features that were written")
        return taken

    spent([[row] for row in requests[:20]])
    one = spent([[row] for row in requests])
    hundred = spent([requests[i : i + 100] for i in range(0, len(requests) - 99, 100)])
    figures = {
        "one_p50_us": round(statistics.median(one), 1),
        "one_p99_us": round(float(np.quantile(one, 0.99)), 1),
        "hundred_p50_us": round(statistics.median(hundred), 1),
        "written_rows_per_s": round(rows / filled),
    }
    print(json.dumps(figures | {"rows": rows, "version": version("feast")}))


if __name__ == "__main__":
    main()
