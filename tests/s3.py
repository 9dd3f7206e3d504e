"""The S3 server of the tests, over a plain client."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from tests.services import address

BUCKET = "headrace-tests"


@dataclass(frozen=True)
class Bucket:
    """A bucket as boto3 sees it, and the options that Headrace needs to reach it."""

    port: int
    options: dict[str, str]
    uri: str = f"s3://{BUCKET}"

    @cached_property
    def client(self) -> Any:
        """A plain client."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.options["endpoint_url"],
            aws_access_key_id=self.options["access_key_id"],
            aws_secret_access_key=self.options["secret_access_key"],
            region_name=self.options["region"],
        )

    def keys(self, prefix: str) -> list[str]:
        """The keys below a prefix, sorted."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return sorted(found["Key"] for page in pages for found in page.get("Contents", ()))

    def read(self, key: str) -> bytes:
        """An object's bytes."""
        body: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body


def bucket() -> Bucket:
    """The tests' bucket on the server of `make services`; tests keep to prefixes of their own."""
    url = urlsplit(address("s3"))
    assert url.port
    assert url.username
    assert url.password
    options = {
        "endpoint_url": f"http://{url.hostname}:{url.port}",
        "region": "us-east-1",
        "access_key_id": url.username,
        "secret_access_key": url.password,
        "allow_http": "true",
    }
    found = Bucket(url.port, options)
    if BUCKET not in {known["Name"] for known in found.client.list_buckets()["Buckets"]}:
        found.client.create_bucket(Bucket=BUCKET)
    return found
