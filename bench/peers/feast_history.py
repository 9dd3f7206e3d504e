"""The join of `bench/history.py` by Feast, with its DuckDB offline store; runs in Feast's own environment.

Takes the folder that the bench filled; writes the answers to `feast.arrow` there, in order of the rows, and prints the
figures as one JSON object.
"""

import json
import resource
import statistics
import sys
import time
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import feast
import pandas as pd
import pyarrow.feather as feather
import pyarrow.parquet as pq
from feast import types

KINDS = {"float": types.Float64, "int": types.Int64, "bool": types.Bool}
REPEATS = 2
STORE = """\
project: bench
provider: local
registry: {folder}/registry.db
offline_store: {{type: duckdb}}
online_store: {{type: sqlite, path: {folder}/online.db}}
entity_key_serialization_version: 3
"""


def main() -> None:
    """Join, write, print."""
    folder = Path(sys.argv[1])
    (folder / "feature_store.yaml").write_text(STORE.format(folder=folder))
    store = feast.FeatureStore(repo_path=str(folder))
    user = feast.Entity(name="user", join_keys=["user"], value_type=feast.ValueType.STRING)
    asked = json.loads((folder / "groups.json").read_text())
    views = [
        feast.FeatureView(
            name=name,
            entities=[user],
            ttl=timedelta(days=asked["ttl_days"]),
            schema=[feast.Field(name=feature, dtype=KINDS[kind]) for feature, kind in features],
            source=feast.FileSource(path=str(folder / f"{name}.parquet"), timestamp_field="at"),
            online=False,
        )
        for name, features in asked["groups"].items()
    ]
    store.apply([user, *views])
    names = [f"{name}:{feature}" for name, features in asked["groups"].items() for feature, _ in features]
    rows = pq.read_table(folder / "rows.parquet").rename_columns({"at": "event_timestamp"}).to_pandas()
    spent, busy = [], []
    for _ in range(REPEATS):
        began, worked = time.perf_counter(), time.process_time()
        found = store.get_historical_features(entity_df=pd.DataFrame(rows), features=names).to_arrow()
        spent.append(time.perf_counter() - began)
        busy.append(time.process_time() - worked)
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    feather.write_feather(found.sort_by("row"), folder / "feast.arrow", compression="uncompressed")
    figures = {
        "seconds": round(statistics.median(spent[1:]), 2),
        "cpu_seconds": round(statistics.median(busy[1:]), 2),
        "cold_seconds": round(spent[0], 2),
    }
    print(json.dumps(figures | {"peak_rss_mb": peak, "rows": found.num_rows, "version": version("feast")}))


if __name__ == "__main__":
    main()
