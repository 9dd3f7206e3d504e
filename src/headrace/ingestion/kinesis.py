"""A stream of Kinesis as it is read: its shards, their records in order, and its errors in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from headrace.core.errors import ConfigError, NotFound, StoreError, Unreachable
from headrace.eventlog.source import Expired, Page, Shard, Throttled

_ARN: Final = re.compile(r"arn:aws[a-z-]*:kinesis:([a-z0-9-]+):\d{12}:stream/([A-Za-z0-9_.-]{1,128})")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_AT_MOST: Final = 10_000
"""Records of one call; Kinesis itself gives 10 MiB at most."""
_THROTTLED: Final = {
    "ProvisionedThroughputExceededException",
    "LimitExceededException",
    "KMSThrottlingException",
    "ThrottlingException",
}
_PASSING: Final = {"InternalFailureException", "InternalFailure", "ServiceUnavailable", "RequestTimeout"}


@dataclass(frozen=True, slots=True)
class KinesisSource:
    """Where a stream of events comes from.

    Attributes:
        stream: name or ARN of the Kinesis stream.
        region: its region; empty: that of the ARN, else what AWS_* variables or the machine say.
        endpoint: the server, where it is not AWS's own.
    """

    stream: str
    region: str = ""
    endpoint: str = ""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"stream {self.stream} of Kinesis"

    def check(self, where: str) -> None:
        """Raise ConfigError unless this may be the address of a stream."""
        if not _ARN.fullmatch(self.stream) and not _NAME.fullmatch(self.stream):
            raise ConfigError(f'{where}: kinesis = "{self.stream}" is neither the name of a stream nor its ARN')
        url = urlsplit(self.endpoint)
        if self.endpoint and (url.scheme not in ("http", "https") or not url.hostname):
            raise ConfigError(f"{where}: endpoint is no URL; write https://HOST, or leave it out for AWS")
        if url.scheme == "http" and url.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ConfigError(f'{where}: endpoint = "http://{url.hostname}..." is not encrypted; write https://')


class KinesisStream:
    """`eventlog.source.Source` of a stream of Kinesis. A position is a sequence number.

    Kinesis takes five calls a second for a shard from all of its readers, and iterators hold for five minutes.
    """

    system, pace_s = "kinesis", 0.25

    def __init__(self, source: KinesisSource) -> None:
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            raise ConfigError('a stream of Kinesis needs its client: pip install "headrace[kinesis]"') from None
        self.source = source
        arn = _ARN.fullmatch(source.stream)
        self._at = {"StreamARN": source.stream} if arn else {"StreamName": source.stream}
        # What is to be tried again is decided by whoever calls, who knows what else there is to do meanwhile.
        config = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1}, max_pool_connections=16)
        with self._told("open"):
            self._client: Any = boto3.session.Session().client(
                "kinesis",
                region_name=source.region or (arn[1] if arn else None),
                endpoint_url=source.endpoint or None,
                config=config,
            )

    def created(self) -> str:
        """When the stream was made: another stream of the same name has another time."""
        with self._told("look at"):
            found = self._client.describe_stream_summary(**self._at)["StreamDescriptionSummary"]
        return str(found["StreamCreationTimestamp"].timestamp())

    def shards(self) -> list[Shard]:
        """The shards that hold records or will, by id."""
        found, more = [], None
        while True:
            with self._told("list the shards of"):
                answer = self._client.list_shards(**({"NextToken": more} if more else self._at))
            found += [
                Shard(
                    shard["ShardId"],
                    tuple(shard[name] for name in ("ParentShardId", "AdjacentParentShardId") if shard.get(name)),
                )
                for shard in answer["Shards"]
            ]
            more = answer.get("NextToken")
            if not more:
                return sorted(found, key=lambda shard: shard.id)

    def iterator(self, shard: str, after: str | None) -> str:
        """Where reading goes on after a sequence number; from the oldest record held if there is none."""
        where = (
            {"ShardIteratorType": "TRIM_HORIZON"}
            if after is None
            else {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": after}
        )
        with self._told(f"read shard {shard} of"):
            answer = self._client.get_shard_iterator(**self._at, ShardId=shard, **where)
        return str(answer["ShardIterator"])

    def read(self, shard: str, iterator: str) -> Page:
        """The next records of a shard; raises Throttled, or Expired if the iterator is too old."""
        arn = {"StreamARN": self.source.stream} if "StreamARN" in self._at else {}
        with self._told(f"read shard {shard} of"):
            answer = self._client.get_records(**arn, ShardIterator=iterator, Limit=_AT_MOST)
        records = answer["Records"]
        return Page(
            # Many producers end each record's line, for readers that join them.
            [bytes(record["Data"]).rstrip(b"\r\n") for record in records],
            str(records[-1]["SequenceNumber"]) if records else None,
            answer.get("NextShardIterator"),
            int(answer.get("MillisBehindLatest") or 0),
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        import botocore.exceptions as aws

        name = self.source.stream
        try:
            yield
        except (aws.NoRegionError, aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound) as error:
            raise ConfigError(
                f"Kinesis stream {name}: {str(error).rstrip('.')}; set AWS_* variables, or region = beside kinesis ="
            ) from None
        except aws.ClientError as error:
            code, text = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in _THROTTLED:
                raise Throttled(code) from None
            if code == "ExpiredIteratorException":
                raise Expired from None
            if code in _PASSING or status >= 500:
                raise Unreachable(f"Kinesis cannot {doing} stream {name} just now: {code or status}") from None
            if code == "ResourceNotFoundException":
                raise NotFound(f"Kinesis has no stream {name}, or not this shard of it: {text}") from None
            raise StoreError(f"Kinesis refuses to {doing} stream {name}: {code}: {text}") from None
        except (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError) as error:
            raise Unreachable(f"Kinesis does not answer for stream {name}: {type(error).__name__}") from None
