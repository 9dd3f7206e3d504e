"""The way to a Kafka cluster: its address, its clients, and what to say when it does not answer."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from headrace.core.errors import ConfigError, LogError, LogUnreachable

T = TypeVar("T")

PATIENCE_S: Final = 15.0
"""How long a call waits for a broker that is away before it gives up."""
_TELL_S: Final = 3.0
_LOG: Final = logging.getLogger(__name__)
_SILENT: Final = logging.getLogger("headrace.kafka")
"""librdkafka's own log. What goes wrong comes out of calls; give this logger a handler to see all of it."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False
_CALL_S: Final = 5.0
_MAX_NAME: Final = 249
_MAX_MESSAGE: Final = 1_000_000_000
_PLAIN: Final = re.compile(rb"[A-Za-z0-9_-]")
_AWAY: Final = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._RESOLVE,
        KafkaError._DESTROY_BROKER,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._WAIT_COORD,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.NOT_CONTROLLER,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
"""What passes by itself when the broker is back, or has heard of what was just made.

A client that has just lost the last broker of its metadata says that the partition is unknown, or that its handle of
the broker was destroyed.
"""


_UNWELCOME: Final = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED)


@dataclass(frozen=True, slots=True)
class KafkaAddress:
    """Where a cluster is and how to speak to it.

    Attributes:
        servers: `host:port` of one or more brokers, with commas between.
        prefix: what the names of all topics, groups and transactions begin with: environments that share a cluster
            share nothing else.
        options: settings of librdkafka (`security.protocol`, `sasl.*`, `ssl.*`, …); may hold passwords, never shown.
    """

    servers: str
    prefix: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def below(self, name: str) -> KafkaAddress:
        """The same cluster with `name` added to the prefix."""
        return KafkaAddress(self.servers, f"{self.prefix}.{name}", self.options)


def parse_address(url: str, env: str, options: Mapping[str, str] | None = None) -> KafkaAddress:
    """Read `kafka://[user:password@]host:port[,host:port][/project][?option=value]`.

    Names on the cluster begin with the project ("headrace" if the URL has none) and `env`. Options of the URL win over
    `options`. A user and password mean SASL PLAIN over TLS unless `sasl.mechanism` and `security.protocol` say
    otherwise. Raises ConfigError, never naming the password.
    """
    parts = urlsplit(url)
    login, _, servers = parts.netloc.rpartition("@")
    if parts.scheme != "kafka" or not servers:
        raise ConfigError(
            "a Kafka log is given as kafka://host:port, kafka://host1:9092,host2:9092 or with ?option=value"
        )
    chosen = dict(options or {})
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        chosen[key] = value
    if login:
        user, _, password = login.partition(":")
        chosen |= {"sasl.username": unquote(user), "sasl.password": unquote(password)}
        chosen.setdefault("sasl.mechanism", "PLAIN")
        chosen.setdefault("security.protocol", "SASL_SSL")
    name = f"{parts.path.strip('/') or 'headrace'}.{env}"
    if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", name):
        raise ConfigError(f'"{name}" cannot stand before the names of Kafka topics: use letters, digits, ".", "-", "_"')
    # Without a port librdkafka takes 9092.
    return KafkaAddress(servers, name, chosen)


class KafkaCluster:
    """Makes clients of one cluster and asks it for what is no matter of one topic. Thread-safe.

    Every method waits for a broker that is away, with growing pauses, and raises LogError after `patience_s`; its
    message names the `setting` that holds the address.
    """

    def __init__(self, address: KafkaAddress, *, patience_s: float | None = None, setting: str = "log") -> None:
        self.address = address
        self._setting = setting
        self.patience_s = PATIENCE_S if patience_s is None else patience_s
        self._admin: AdminClient | None = None
        self._unwelcome: KafkaError | None = None

    def config(self, **own: Any) -> dict[str, Any]:
        """Settings of a client: those of the address, then `own` (with `_` for `.`), which no address can change."""
        base: dict[str, Any] = {
            "client.id": "headrace",
            "logger": _SILENT,
            "error_cb": self._heard,
            "reconnect.backoff.max.ms": 1_000,
        }
        fixed = {key.replace("_", "."): value for key, value in own.items()}
        given = {key: value for key, value in self.address.options.items() if key != "compression.type"}
        return {**base, **given, "bootstrap.servers": self.address.servers, **fixed}

    def consumer(self, *, wait_ms: int = 100) -> Consumer:
        """A consumer that is told what to read; it sees committed messages only, and where a partition ends."""
        return self._made(
            lambda: Consumer(
                self.config(
                    group_id=f"{self.address.prefix}.reader",
                    enable_auto_commit=False,
                    enable_partition_eof=True,
                    auto_offset_reset="error",
                    isolation_level="read_committed",
                    check_crcs=True,
                    fetch_wait_max_ms=wait_ms,
                    fetch_queue_backoff_ms=10,
                    fetch_error_backoff_ms=100,
                    queued_max_messages_kbytes=8_192,
                    receive_message_max_bytes=_MAX_MESSAGE,
                )
            )
        )

    def producer(self, **own: Any) -> Producer:
        """A producer whose messages are kept by all replicas in sync, once and in order."""
        chosen = {"linger_ms": 0, "compression_type": self.address.options.get("compression.type", "lz4"), **own}
        return self._made(
            lambda: Producer(self.config(enable_idempotence=True, acks="all", message_max_bytes=_MAX_MESSAGE, **chosen))
        )

    @property
    def admin(self) -> AdminClient:
        """The client of administration."""
        if self._admin is None:
            self._admin = self._made(lambda: AdminClient(self.config()))
        return self._admin

    def partitions(self, names: Collection[str] | None = None) -> dict[str, int]:
        """Number of partitions by topic, of the topics below the prefix or of these, by the names that Kafka knows."""
        found = self.patient("list its topics", lambda: self.admin.list_topics(timeout=min(_CALL_S, self.patience_s)))
        start = self.address.prefix + "."
        return {
            name: len(topic.partitions)
            for name, topic in sorted(found.topics.items())
            if topic.error is None and (name.startswith(start) if names is None else name in names)
        }

    def create(self, topic: str, partitions: int, config: Mapping[str, str]) -> None:
        """Make a topic and wait until all of its partitions can be used; one that exists is left as it is."""
        new = NewTopic(topic, num_partitions=partitions, replication_factor=-1, config=dict(config))

        def made() -> None:
            try:
                self.admin.create_topics([new], operation_timeout=_CALL_S)[topic].result(_CALL_S)
            except KafkaException as error:
                if _code(error) != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

        def usable() -> None:
            there = self.admin.list_topics(topic, timeout=_CALL_S).topics[topic]
            if there.error is not None or any(part.leader < 0 for part in there.partitions.values()):
                raise KafkaException(there.error or KafkaError(KafkaError.LEADER_NOT_AVAILABLE))

        self.patient(f"create topic {topic}", made)
        self.patient(f"find topic {topic}", usable)

    def differing(self, topic: str, wanted: Mapping[str, str]) -> dict[str, str]:
        """The settings of a topic that are not as wanted, as they are."""
        resource = ConfigResource(ResourceType.TOPIC, topic)

        def asked() -> dict[str, str]:
            entries = self.admin.describe_configs([resource], request_timeout=_CALL_S)[resource].result(_CALL_S)
            return {name: str(entries[name].value) for name in wanted if entries[name].value != wanted[name]}

        return self.patient(f"describe topic {topic}", asked)

    def bounds(self, consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
        """Kafka's first offset of a partition, and the one after the last that a reader may see."""
        at = TopicPartition(topic, partition)
        low, high = self.patient(
            f"tell the end of {topic}/{partition}", lambda: consumer.get_watermark_offsets(at, timeout=_CALL_S)
        )
        return low, high

    def delete_below(self, topic: str, partition: int, offset: int) -> None:
        """Let Kafka drop the messages of a partition below an offset."""
        at = TopicPartition(topic, partition, offset)

        def deleted() -> None:
            for future in self.admin.delete_records([at], operation_timeout=_CALL_S).values():
                future.result(_CALL_S)

        self.patient(f"delete records of {topic}/{partition}", deleted)

    def patient(self, what: str, do: Callable[[], T]) -> T:
        """Call `do` again while the broker is away; LogError says what it could not do."""
        began = time.monotonic()
        pause = 0.01
        told = False
        while True:
            try:
                return do()
            except (KafkaException, TimeoutError) as error:
                if isinstance(error, KafkaException) and _code(error) not in _AWAY:
                    raise self.refused(what, error) from None
                if self._admin is not None:
                    self._admin.poll(0)  # hears of a user that is refused
                unwelcome, self._unwelcome = self._unwelcome, None
                if unwelcome is not None:
                    raise self.refused(what, KafkaException(unwelcome)) from None
                if time.monotonic() - began > self.patience_s:
                    raise self.away(what, error) from None
                if not told and time.monotonic() - began > _TELL_S:
                    told = True
                    _LOG.warning("Kafka at %s does not %s (%s): waiting", self.address.servers, what, _reason(error))
                time.sleep(pause)
                pause = min(2 * pause, 1.0)

    def away(self, what: str, error: BaseException) -> LogUnreachable:
        """The error for a broker that does not answer."""
        return LogUnreachable(
            f"Kafka at {self.address.servers} could not {what} within {self.patience_s:g} s ({_reason(error)}): "
            f"start the broker or mend the address in `{self._setting}`; nothing is lost, try again then"
        )

    def refused(self, what: str, error: BaseException) -> LogError:
        """The error for a broker that answers, and refuses."""
        return LogError(
            f"Kafka at {self.address.servers} refused to {what}: {_reason(error)}; "
            f"look at the rights of this user and at the options of `{self._setting}`"
        )

    def _heard(self, error: KafkaError) -> None:
        """Calls tell their own errors; but of a user that is refused they say only that nobody answers."""
        if error.code() in _UNWELCOME:
            self._unwelcome = error

    def _made(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except KafkaException as error:
            raise ConfigError(
                f"the options of `{self._setting}` cannot be used by Kafka's client: {_reason(error)}"
            ) from None


def kafka_name(address: KafkaAddress, name: str) -> str:
    """The name of a topic or group as Kafka knows it: other characters than letters, digits, `_` and `-` are written
    as `.` and two hexadecimal digits per byte.

    Raises LogError if that is too long for Kafka.
    """
    quoted = "".join(chr(byte) if _PLAIN.fullmatch(bytes([byte])) else f".{byte:02x}" for byte in name.encode())
    whole = f"{address.prefix}.{quoted}"
    if len(whole) > _MAX_NAME:
        raise LogError(f'"{name}" is too long a name for Kafka with its prefix {address.prefix}: shorten it')
    return whole


def own_name(address: KafkaAddress, name: str) -> str:
    """The inverse of `kafka_name`."""
    quoted = name[len(address.prefix) + 1 :]
    return re.sub(rb"\.([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), quoted.encode()).decode()


def _code(error: KafkaException) -> int:
    cause = error.args[0] if error.args else None
    return cause.code() if isinstance(cause, KafkaError) else KafkaError._FAIL


def _reason(error: BaseException) -> str:
    cause = error.args[0] if error.args else error
    return cause.str() if isinstance(cause, KafkaError) else str(cause) or type(error).__name__
