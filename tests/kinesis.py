"""A Kinesis of the tests' own: moto's server as a process, where it needs it brought to do as Kinesis documents.

moto moves the records of a shard that is split or merged into its children, puts new ones into closed shards, and its
iterators never end. Here they stay, go to open shards, and a closed one ends with its last record; each takes five
reads a second, as on AWS.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "s3cret-key", "AWS_DEFAULT_REGION": "eu-central-1"}


@dataclass(frozen=True)
class Kinesis:
    """The server, and a plain client of it."""

    endpoint: str
    client: Any

    def make(self, stream: str, shards: int = 1) -> None:
        """Make a stream."""
        self.client.create_stream(StreamName=stream, ShardCount=shards)

    def put(self, stream: str, events: list[Mapping[str, Any]], key: str) -> None:
        """Put events in order, each to the shard of its key."""
        for start in range(0, len(events), 500):
            records = [
                {"Data": json.dumps(event).encode() + b"\n", "PartitionKey": str(event[key])}
                for event in events[start : start + 500]
            ]
            assert self.client.put_records(StreamName=stream, Records=records)["FailedRecordCount"] == 0

    def open_shards(self, stream: str) -> list[Any]:
        """Shards that take records."""
        shards = self.client.list_shards(StreamName=stream)["Shards"]
        return [shard for shard in shards if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]

    def split(self, stream: str, shard: Any) -> None:
        """Split a shard in the middle."""
        low, high = (int(shard["HashKeyRange"][name]) for name in ("StartingHashKey", "EndingHashKey"))
        self.client.split_shard(
            StreamName=stream, ShardToSplit=shard["ShardId"], NewStartingHashKey=str((low + high) // 2)
        )

    def merge(self, stream: str, first: Any, second: Any) -> None:
        """Merge two neighbours."""
        self.client.merge_shards(
            StreamName=stream, ShardToMerge=first["ShardId"], AdjacentShardToMerge=second["ShardId"]
        )


@contextmanager
def kinesis() -> Iterator[Kinesis]:
    """A server, ended at the end."""
    import boto3

    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kinesis"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=_ROOT,
        env={**os.environ, **KEYS},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        endpoint = process.stdout.readline().decode().strip()
        assert endpoint, "the server did not start"
        client = boto3.session.Session().client(
            "kinesis",
            endpoint_url=endpoint,
            region_name=KEYS["AWS_DEFAULT_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )
        yield Kinesis(endpoint, client)
        client.close()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _serve() -> None:
    """What the server process runs."""
    from moto.core.exceptions import JsonRESTError
    from moto.kinesis import models
    from moto.kinesis.utils import decompose_shard_iterator
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    parent = os.getppid()
    split, merge = models.Stream.split_shard, models.Stream.merge_shards
    get_records = models.KinesisBackend.get_records
    asked: dict[tuple[str, ...], list[float]] = {}
    sequence = iter(range(1, 10**9))

    def kept(change: Any) -> Any:
        """The change without moving records."""

        def changed(self: Any, *shards: Any) -> None:
            held = {shard: shard.records.copy() for shard in self.shards.values()}
            before = set(self.shards)
            change(self, *shards)
            for shard, records in held.items():
                shard.records = records
            for name in set(self.shards) - before:
                made = self.shards[name]
                made.records.clear()
                if made.adjacent_parent:
                    made.ending_hash = max(self.shards[p].ending_hash for p in (made.parent, made.adjacent_parent))

        return changed

    def open_shard(self: Any, partition_key: str, explicit_hash_key: str) -> Any:
        key = int(hashlib.md5(partition_key.encode()).hexdigest(), 16)
        return next(s for s in self.shards.values() if s.is_open and s.starting_hash <= key <= s.ending_hash)

    def put(self: Any, partition_key: str, data: str, explicit_hash_key: str) -> str:
        # Sequence numbers are of the whole stream.
        number = next(sequence)
        self.records[number] = models.Record(partition_key, data, number, explicit_hash_key)
        return str(number)

    def get(self: Any, stream_arn: Any, shard_iterator: str, limit: Any) -> Any:
        name, shard_id, _ = decompose_shard_iterator(shard_iterator)
        now = time.monotonic()
        recent = [at for at in asked.get((name, shard_id), []) if now - at < 1.0]
        if len(recent) >= 5:
            raise JsonRESTError("ProvisionedThroughputExceededException", "Rate exceeded for shard")
        asked[name, shard_id] = [*recent, now]
        after, records, behind = get_records(self, stream_arn, shard_iterator, min(limit or 100, 100))
        shard = self.describe_stream(stream_arn=stream_arn, stream_name=name).get_shard(shard_id)
        newest = shard.get_max_sequence_number()
        reached = int(decompose_shard_iterator(after)[2])
        if reached >= newest:
            return None if not shard.is_open else after, records, 0
        return after, records, max(behind, 1)

    models.Stream.split_shard, models.Stream.merge_shards = kept(split), kept(merge)
    models.Stream.get_shard_for_key = open_shard
    models.Shard.put_record, models.KinesisBackend.get_records = put, get
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    while os.getppid() == parent:  # goes with whoever started it
        time.sleep(0.5)


if __name__ == "__main__":
    _serve()
