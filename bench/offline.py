"""How long an append to the offline store takes, and a scan: in a local folder, and on an S3 server over loopback.

The last line is one JSON object. `append_ms` is the median and `append_p90_ms` the ninth decile of appends of --rows
rows of one day, each a commit; `scan_rows_per_s` reads all rows and columns of that table; `scan_day_ms` reads the last
of 30 days of another one, which is compacted. What comes back is compared with what was appended. The S3 server is that
of `make services`, or of HEADRACE_TEST_S3; without one its part is left out, and said so.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from harness import versions
from headrace.core.time import US_PER_DAY
from headrace.stores.objects import s3_options
from headrace.stores.offline.delta import DeltaOfflineStore

DAYS = 30
BUCKET = "headrace-bench"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--appends", type=int, default=100)
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        figures["local"] = measured(DeltaOfflineStore(Path(folder) / "offline"), arguments.rows, arguments.appends)
    found = s3()
    if found is None:
        print("no S3 server is running here: tools/services.sh start s3")
    else:
        uri, options = found
        figures["s3"] = measured(DeltaOfflineStore(uri, options), arguments.rows, arguments.appends)
    record = {
        "bench": "offline",
        "parameters": vars(arguments),
        "figures": figures,
        "versions": versions("deltalake", "pyarrow"),
    }
    print(json.dumps(record))


def s3() -> tuple[str, dict[str, str]] | None:
    """A fresh prefix on the S3 server, and how to reach it."""
    file = Path(__file__).parents[1] / ".services" / "s3.url"
    text = os.environ.get("HEADRACE_TEST_S3") or (file.read_text().strip() if file.is_file() else "")
    if not text:
        return None
    import boto3

    url = urlsplit(text)
    endpoint = f"http://{url.hostname}:{url.port}"
    keys = {"aws_access_key_id": url.username, "aws_secret_access_key": url.password, "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint, **keys)
    if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=BUCKET)
    options = s3_options(
        {
            "endpoint_url": endpoint,
            "region": "us-east-1",
            "access_key_id": url.username or "",
            "secret_access_key": url.password or "",
            "allow_http": "true",
        }
    )
    return f"s3://{BUCKET}/{secrets.token_hex(6)}", options


def measured(store: DeltaOfflineStore, rows: int, appends: int) -> dict[str, float]:
    """The figures of one store, empty before."""
    taken = []
    for number in range(appends):
        batch = events(number, rows, day=0)
        began = time.perf_counter()
        store.append("appended", batch, time_column="at", writer="bench", number=number)
        taken.append(1000 * (time.perf_counter() - began))
    began = time.perf_counter()
    found = store.scan("appended")
    scan_s = time.perf_counter() - began
    check(found, [events(number, rows, day=0) for number in range(appends)])
    for day in range(DAYS):
        store.append("days", events(day, rows, day=day), time_column="at", writer="bench", number=day)
    store.compact("days")
    began = time.perf_counter()
    last = store.scan("days", since_us=(DAYS - 1) * US_PER_DAY)
    scan_day_ms = 1000 * (time.perf_counter() - began)
    check(last, [events(DAYS - 1, rows, day=DAYS - 1)])
    store.close()
    return {
        "append_ms": round(float(np.median(taken)), 1),
        "append_p90_ms": round(float(np.quantile(taken, 0.9)), 1),
        "scan_rows_per_s": round(rows * appends / scan_s),
        "scan_day_ms": round(scan_day_ms, 1),
    }


def events(number: int, rows: int, day: int) -> pa.Table:
    """Rows of one append: a time, a key, two numbers and a text."""
    rng = np.random.default_rng(number)
    return pa.table(
        {
            "at": day * US_PER_DAY + np.sort(rng.integers(0, US_PER_DAY, rows)),
            "user": rng.integers(0, 100_000, rows),
            "amount": rng.random(rows),
            "number": np.full(rows, number),
            "text": [f"t{value}" for value in rng.integers(0, 1_000, rows)],
        }
    )


def check(found: pa.Table, given: list[pa.Table]) -> None:
    """End the run unless the rows are the same."""
    order = [("number", "ascending"), ("at", "ascending"), ("user", "ascending")]
    if not found.sort_by(order).equals(pa.concat_tables(given).combine_chunks().sort_by(order)):
        raise SystemExit("what was scanned is not what was appended")


if __name__ == "__main__":
    main()
