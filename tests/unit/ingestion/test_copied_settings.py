"""Where streams are copied from: what headrace.toml may say, and what is refused with its cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.app.settings import load_settings
from headrace.app.wiring import Parts
from headrace.core.errors import ConfigError
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import SimulatedClock
from headrace.features.plan import ProjectPlan, StreamPlan
from headrace.ingestion.kinesis import KinesisSource


def settings_of(folder: Path, text: str) -> object:
    (folder / "headrace.toml").write_text(text)
    return load_settings(folder, environ={"WHERE": "eu-west-1"}).copied


def test_an_environment_may_say_where_a_stream_comes_from(tmp_path: Path) -> None:
    text = """
    streams.order = { kinesis = "orders", region = "${WHERE}" }
    [env.prod]
    streams.order = { kinesis = "arn:aws:kinesis:eu-central-1:123456789012:stream/orders" }
    """
    assert settings_of(tmp_path, text) == {"order": KinesisSource("orders", "eu-west-1")}
    prod = load_settings(tmp_path, env="prod", environ={"WHERE": "x"}).copied
    assert prod == {"order": KinesisSource("arn:aws:kinesis:eu-central-1:123456789012:stream/orders")}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('streams.order = { kinesis = "a b" }', "neither the name of a stream nor its ARN"),
        ('streams.order = { kinesis = "arn:aws:s3:::bucket" }', "neither the name"),
        ('streams.order = { kinesis = "a", zone = "x" }', "write streams.NAME"),
        ('streams.order = { kinesis = "a", topic = "x" }', "write streams.NAME"),
        ('streams.order = { region = "x" }', "write streams.NAME"),
        ('streams.order = { kinesis = "" }', "write streams.NAME"),
        ('streams.order = { kinesis = "a", endpoint = "kinesis.example" }', "no URL"),
        ('streams.order = { kinesis = "a", endpoint = "http://kinesis.example" }', "not encrypted"),
        ('streams.order = { kafka = "orders" }', "write kafka://host:9092/TOPIC"),
        ('streams.order = { kafka = "kafka://host:9092" }', "write kafka://host:9092/TOPIC"),
        ('streams.order = { kafka = "kafka://host/a/b" }', "write kafka://host:9092/TOPIC"),
        ('streams.order = { kafka = "kafka://host/a", topic = "b" }', "write streams.NAME"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        settings_of(tmp_path, line)


def test_a_stream_must_be_declared_and_on_kafka_have_an_id(tmp_path: Path) -> None:
    schema = Schema("visit", (Field("user", DType.STRING), Field("at", DType.TIMESTAMP)), "at")
    plan = ProjectPlan({"visit": StreamPlan("visit", schema)}, {}, {}, {}, {})
    for text, told in (
        ('streams.visits = { kinesis = "a" }', 'no stream "visits"; declared are visit'),
        ('log = "kafka://host"\nstreams.visit = { kinesis = "a" }', "declares no id"),
    ):
        settings_of(tmp_path, text)
        parts = Parts(load_settings(tmp_path), plan, SimulatedClock(0))
        with pytest.raises(ConfigError, match=told):
            parts.copier(next(iter(parts.settings.copied)))
