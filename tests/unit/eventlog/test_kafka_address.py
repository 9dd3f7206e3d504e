"""Addresses of a Kafka log: what they say, what they refuse, and that no password is ever told."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.app.doctor import examine
from headrace.app.settings import load_settings
from headrace.core.errors import ConfigError, LogError, LogUnreachable, Unreachable
from headrace.core.time import SimulatedClock
from headrace.eventlog.kafka.cluster import kafka_name, own_name, parse_address
from headrace.eventlog.kafka.log import KafkaEventLog

SECRET = "p@ss/w0rd"
_TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=18)


def test_an_address_names_servers_project_and_options() -> None:
    plain = parse_address("kafka://h1:9092,h2:9092", "prod")
    assert (plain.servers, plain.prefix, dict(plain.options)) == ("h1:9092,h2:9092", "headrace.prod", {})
    full = parse_address(
        "kafka://bob:p%40ss%2Fw0rd@h:1/bank?sasl.mechanism=SCRAM-SHA-512", "dev", {"ssl.ca.location": "/ca", "x": "1"}
    )
    assert (full.servers, full.prefix) == ("h:1", "bank.dev")
    assert dict(full.options) == {
        "sasl.mechanism": "SCRAM-SHA-512",
        "security.protocol": "SASL_SSL",
        "sasl.username": "bob",
        "sasl.password": SECRET,
        "ssl.ca.location": "/ca",
        "x": "1",
    }
    assert "p@ss" not in repr(full)
    assert full.below("raw").prefix == "bank.dev.raw"


@pytest.mark.parametrize("url", [f"kafka:///{SECRET}", f"http://u:{SECRET}@h", f"kafka://u:{SECRET}@"])
def test_what_is_no_address_is_refused_without_telling_it(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_address(url, "default")
    assert "p@ss" not in str(refused.value)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"sasl\.passphrase"):
        KafkaEventLog(parse_address("kafka://h", "e", {"sasl.passphrase": SECRET}), SimulatedClock(0))


@given(_TEXT, _TEXT)
def test_names_come_back_and_stay_apart(one: str, two: str) -> None:
    address = parse_address("kafka://h/p", "e")
    names = [kafka_name(address, one), kafka_name(address, two)]
    assert [own_name(address, name) for name in names] == [one, two]
    assert (names[0] == names[1]) == (one == two)
    assert all(c.isascii() and (c.isalnum() or c in "._-") for name in names for c in name)


def test_a_name_that_is_too_long_for_kafka_is_refused() -> None:
    with pytest.raises(LogError, match="too long a name for Kafka"):
        kafka_name(parse_address("kafka://h/p", "e"), "漢" * 40)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def test_a_broker_that_is_away_is_waited_for_and_then_named() -> None:
    port = free_port()
    address = parse_address(f"kafka://bob:p%40ss%2Fw0rd@127.0.0.1:{port}?security.protocol=SASL_PLAINTEXT", "e")
    log = KafkaEventLog(address, SimulatedClock(0), patience_s=0.5)
    began = time.monotonic()
    with pytest.raises(LogUnreachable, match=f"127.0.0.1:{port}.*start the broker") as away:
        log.topics()
    assert isinstance(away.value, Unreachable)
    assert isinstance(away.value, LogError)
    assert "p@ss" not in str(away.value)
    assert time.monotonic() - began < 20
    log.close()


def write(folder: Path, text: str) -> Path:
    (folder / "headrace.toml").write_text(text, encoding="utf-8")
    return folder


def test_settings_take_options_from_tables_and_the_environment(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        """
[kafka]
"client.rack" = "a"
sasl.mechanism = "PLAIN"
[env.prod]
log = "kafka://h:1"
streams.order = { topic = "core.orders.v3" }
[env.prod.kafka]
sasl.password = "${KAFKA_PASSWORD}"
"enable.ssl.certificate.verification" = false
""",
    )
    settings = load_settings(folder, env="prod", environ={"KAFKA_PASSWORD": SECRET})
    assert dict(settings.kafka) == {
        "client.rack": "a",
        "sasl.mechanism": "PLAIN",
        "sasl.password": SECRET,
        "enable.ssl.certificate.verification": "false",
    }
    assert dict(settings.topics) == {"order": "core.orders.v3"}
    assert SECRET not in repr(settings)
    with pytest.raises(ConfigError, match="KAFKA_PASSWORD"):
        load_settings(folder, env="prod", environ={})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('log = "kafka://h"\nstreams.order = { topics = "x" }', r"streams\.order .* write streams\.NAME"),
        ('log = "kafka://h"\nstreams.order = "x"', r"streams\.order"),
        ('streams.order = { topic = "x" }', 'give log = "kafka://'),
        ('log = "amqp://u:p@h"', 'log takes "embedded" or "kafka://'),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(write(tmp_path, text), environ={})


def test_the_doctor_waits_once_for_a_broker_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.eventlog.kafka.cluster.PATIENCE_S", 0.3)
    port = free_port()
    (tmp_path / "features.py").write_text("", encoding="utf-8")
    findings = examine(write(tmp_path, f'log = "kafka://127.0.0.1:{port}"'))
    (bad,) = [finding for finding in findings if finding.what.endswith(" log")]
    assert not bad.ok
    assert f"127.0.0.1:{port}" in bad.found
    assert "layers wait" in bad.cure
