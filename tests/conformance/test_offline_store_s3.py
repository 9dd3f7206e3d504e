"""The offline store on a real S3 server: the same kit, looked at behind its back, and what only a network can do."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.core.errors import ConfigError, StoreError, Unreachable
from headrace.stores.objects import s3_options
from headrace.stores.offline.base import OfflineStore
from headrace.stores.offline.delta import DeltaOfflineStore
from headrace.testing.offline_store import DurableOfflineStoreTests
from tests.conformance.test_offline_store import _live_paths
from tests.link import Link
from tests.s3 import BUCKET, Bucket, bucket

pytestmark = pytest.mark.s3
_ROWS = pa.table({"at": pa.array([1, 2], pa.int64()), "n": [10, 20]})


@pytest.fixture(scope="module", name="objects")
def _objects() -> Bucket:
    return bucket()


@pytest.fixture
def link(objects: Bucket) -> Iterator[Link]:
    with Link(objects.port) as link:
        yield link


@pytest.fixture
def linked(objects: Bucket, link: Link) -> Iterator[DeltaOfflineStore]:
    """A store behind a link that can be cut, with impatient options."""
    options = objects.options | {
        "endpoint_url": f"http://127.0.0.1:{link.port}",
        "max_retries": "1",
        "retry_timeout": "2s",
    }
    store = DeltaOfflineStore(f"{objects.uri}/{secrets.token_hex(6)}", s3_options(options))
    yield store
    store.close()


class TestDeltaOfflineStoreOnS3(DurableOfflineStoreTests):
    adapter = "Delta Lake, S3"

    @pytest.fixture(autouse=True)
    def _server(self, objects: Bucket) -> None:
        self.objects = objects
        self.prefix = secrets.token_hex(6)

    def open(self, place: Path) -> OfflineStore:
        return self.opener(place)()

    def opener(self, place: Path) -> Callable[[], OfflineStore]:
        return partial(DeltaOfflineStore, f"{self.objects.uri}/{self.prefix}", s3_options(self.objects.options))

    def raw_rows(self, store: OfflineStore, place: Path, table: str) -> list[dict[str, Any]]:
        log = sorted(self.objects.keys(f"{self.prefix}/{table}/_delta_log/"))
        entries = (self.objects.read(key).decode() for key in log if key.endswith(".json"))
        before = [self.objects.read(key) for key in log if key.endswith(".checkpoint.parquet")]
        paths = _live_paths(entries, before[-1:])
        return [row for path in paths for row in self._rows(f"{self.prefix}/{table}/{unquote(path)}")]

    def _rows(self, key: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.ParquetFile(io.BytesIO(self.objects.read(key))).read().to_pylist()
        return rows

    def test_rows_lie_under_their_day(self, store: OfflineStore) -> None:
        times = [1_356_998_400_000_000, 1_356_998_399_999_999, None]
        store.append("events/t", pa.table({"at": times}), time_column="at", writer="w", number=0)
        keys = self.objects.keys(f"{self.prefix}/events/t/day=")
        days = {key.split("day=")[1].split("/")[0]: [row["at"] for row in self._rows(key)] for key in keys}
        assert days == {"2013-01-01": times[:1], "2012-12-31": times[1:2], "1970-01-01": [None]}

    def test_objects_that_are_gone_or_cut_short_are_told_and_left_out(self, store: OfflineStore) -> None:
        for number in range(3):
            rows = pa.table({"at": [number], "n": pa.array([10 * number], pa.int64())})
            store.append("events/t", rows, time_column="at", writer="w", number=number)
        keys = self.objects.keys(f"{self.prefix}/events/t/day=")
        held = {key: self._rows(key)[0]["n"] for key in keys}
        client = self.objects.client
        client.delete_object(Bucket=BUCKET, Key=keys[0])
        client.put_object(Bucket=BUCKET, Key=keys[1], Body=self.objects.read(keys[1])[:-9])
        found = {file.path.rsplit("/", 1)[1]: file for file in store.damaged("events/t")}
        assert found.keys() == {key.rsplit("/", 1)[1] for key in keys[:2]}
        assert {file.bounds["n"][0] for file in found.values()} == {held[key] for key in keys[:2]}
        assert sorted(file.fault.split()[0] for file in found.values()) == ["has", "is"]
        assert store.drop_damaged("events/t") == 0, "objects are deleted by somebody who may"
        client.delete_object(Bucket=BUCKET, Key=keys[1])
        assert store.drop_damaged("events/t") == 2
        assert store.damaged("events/t") == []
        assert store.scan("events/t").column("n").to_pylist() == [held[keys[2]]]
        assert store.number("events/t", "w") == 2


def test_an_append_whose_answer_was_lost_counts_once(linked: DeltaOfflineStore, link: Link) -> None:
    """The server has the commit, the writer does not know: whether it asks again or is asked again, it is one."""
    for number in range(3):  # the first makes the table
        link.swallow(lambda data: data.startswith(b"PUT ") and b"_delta_log" in data.split(b"\r\n")[0])
        for _ in range(2):
            with suppress(Unreachable):
                linked.append("t", _ROWS, time_column="at", writer="w", number=number)
        assert link.swallowed == number + 1
        linked.append("t", _ROWS, time_column="at", writer="x", number=number)
    assert [linked.number("t", "w"), linked.number("t", "x")] == [2, 2]
    assert linked.scan("t").num_rows == 2 * 6


def test_a_server_that_is_away_is_named_and_nothing_is_lost(linked: DeltaOfflineStore, link: Link) -> None:
    linked.append("t", _ROWS, time_column="at", writer="w", number=0)
    link.cut()
    for refused in (
        lambda: linked.append("t", _ROWS, time_column="at", writer="w", number=1),
        lambda: linked.append("new", _ROWS, time_column="at", writer="w", number=1),
        lambda: linked.scan("t"),
        lambda: linked.scan("t", version=1),
        lambda: list(linked.batches("t")),
        lambda: linked.count("t"),
        lambda: linked.number("t", "w"),
        linked.tables,
    ):
        with pytest.raises(Unreachable, match=f"127.0.0.1:{link.port} does not answer") as raised:
            refused()
        assert "\n" not in str(raised.value)
    link.mend()
    assert linked.scan("t").num_rows == 2
    assert linked.append("t", _ROWS, time_column="at", writer="w", number=1) > 0
    assert linked.scan("t").num_rows == 4


def test_a_scan_that_is_cut_off_says_so(linked: DeltaOfflineStore, link: Link) -> None:
    for number in range(3):
        linked.append("t", _ROWS, time_column="at", writer="w", number=number)
    batches = linked.batches("t")
    link.cut()
    with pytest.raises(Unreachable, match='table "t"'):
        list(batches)


def test_a_wrong_key_and_a_missing_bucket_are_told_without_secrets(objects: Bucket) -> None:
    wrong = s3_options(objects.options | {"secret_access_key": "not-the-secret"})
    with pytest.raises(StoreError, match="403 SignatureDoesNotMatch") as raised:
        DeltaOfflineStore(f"{objects.uri}/x", wrong).number("t", "w")
    assert not isinstance(raised.value, Unreachable)
    for secret in ("not-the-secret", objects.options["access_key_id"] + "/", "Signature="):
        assert secret not in str(raised.value)
    with pytest.raises(StoreError, match="NoSuchBucket") as raised:
        DeltaOfflineStore("s3://no-such-bucket-here/x", s3_options(objects.options)).append(
            "t", _ROWS, time_column="at", writer="w", number=0
        )
    assert not isinstance(raised.value, Unreachable)


def test_options_that_are_wrong_are_named() -> None:
    with pytest.raises(ConfigError, match='unknown key "endpoint"'):
        s3_options({"endpoint": "https://x"})
    with pytest.raises(ConfigError, match="allow_http = true"):
        s3_options({"endpoint_url": "http://x"})
