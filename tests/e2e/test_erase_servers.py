"""Erasing a user where every part lies on a server: plain clients find nothing but what the receipt says remains."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa

import headrace as hr
from headrace.app.reconciling import reconcile_all
from tests.e2e.bank import NEEDLE, WORD, named_in, run_bank, unpacked, write_bank
from tests.e2e.test_production import TOML
from tests.postgres import database, engine
from tests.s3 import Bucket, bucket
from tests.services import address

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.s3, pytest.mark.postgres]


def in_redis(prefix: str) -> list[bytes]:
    """Keys and records below a prefix."""
    client = redis.Redis.from_url(address("redis"))
    keys = [key for key in client.scan_iter(count=1000) if prefix.encode() in key]
    found = [*keys]
    for key in keys:
        kind = client.type(key)
        found.append(client.get(key) or b"" if kind == b"string" else repr(client.dump(key)).encode())
    client.close()
    return found


def in_bucket(objects: Bucket, prefix: str) -> Iterator[bytes]:
    """Objects below a prefix, and what Parquet packs in them."""
    for key in objects.keys(prefix):
        yield unpacked(key, objects.read(key))


def in_database(url: str) -> Iterator[bytes]:
    """All rows of all tables."""
    with engine(url).connect() as connection:
        for schema in sa.inspect(connection).get_schema_names():
            for table in sa.inspect(connection).get_table_names(schema=schema):
                for row in connection.exec_driver_sql(f'SELECT * FROM "{schema}"."{table}"'):
                    yield repr(tuple(row)).encode()


def test_servers_hold_nothing_but_what_the_receipt_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, objects = f"bank-{secrets.token_hex(4)}", bucket()
    monkeypatch.setenv("SHOP_KEY", objects.options["access_key_id"])
    monkeypatch.setenv("SHOP_SECRET", objects.options["secret_access_key"])
    with database() as catalog:
        text = TOML.format(
            log=f"{address('kafka')}/{name}", online=f"{address('redis')}?prefix={name}",
            offline=f"{objects.uri}/{name}", catalog=catalog, **objects.options,
        )  # fmt: skip
        folder = write_bank(tmp_path / "bank", text)
        run_bank(folder, 60, model=False)
        with hr.connect(folder) as project:
            worker = project.parts.archive()
            while worker.step():
                pass
            assert any(WORD.search(data) for data in in_redis(name))
            assert any(WORD.search(data) for data in in_bucket(objects, name))
            receipt = project.erase("user", NEEDLE)
            assert not any(WORD.search(data) for data in in_redis(name))
            assert not any(WORD.search(data) for data in in_bucket(objects, name))
            assert not any(WORD.search(data) for data in in_database(catalog))
            assert named_in(folder) == []
            places = {place.place for place in receipt.places}
            assert {"online store", "archive events/pay", "archive events/login"} <= places
            remains = "\n".join(receipt.remains)
            for told in (
                "event log on Kafka",
                "known-",
                "feature log on Kafka",
                "windows/0 below",
                "Redis' own files",
            ):
                assert told in remains
            # What is archived and asked for by nobody is trimmed at once.
            raw = project.parts.raw
            assert all(raw.begin("login", p) == raw.end("login", p) for p in range(2))
            assert project.get("sent", sender=NEEDLE).n["7d"] == 0
            assert reconcile_all(project.parts).wrong == 0
