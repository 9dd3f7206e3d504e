"""Committed offsets of consumer groups, kept where Kafka keeps them: so its own tools show groups and their lag."""

from __future__ import annotations

from typing import Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition

from headrace.eventlog.kafka.cluster import KafkaCluster, kafka_name, own_name

_CALL_S: Final = 10.0


class GroupOffsets:
    """What groups below a prefix have committed. The metadata of an offset is the offset in records.

    One process at a time should commit for a group and partition: Kafka keeps what comes last.
    """

    def __init__(self, cluster: KafkaCluster) -> None:
        self._cluster = cluster
        self._address = cluster.address

    def commit(self, group: str, at: TopicPartition) -> None:
        """Store the offset and metadata of a partition."""
        request = ConsumerGroupTopicPartitions(kafka_name(self._address, group), [at])

        def altered() -> None:
            for future in self._cluster.admin.alter_consumer_group_offsets([request]).values():
                for found in future.result(_CALL_S).topic_partitions:
                    if found.error is not None:
                        raise KafkaException(found.error)

        self._cluster.patient(f"commit offsets of group {group}", altered)

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """Offsets in records by Kafka topic and partition."""
        return self._committed(kafka_name(self._address, group))

    def all(self) -> dict[tuple[str, str, int], int]:
        """Offsets in records by group, Kafka topic and partition."""
        listed = self._cluster.patient(
            "list groups", lambda: self._cluster.admin.list_consumer_groups().result(_CALL_S)
        )
        start = self._address.prefix + "."
        found = {}
        for name in sorted(group.group_id for group in listed.valid if group.group_id.startswith(start)):
            for (topic, partition), offset in self._committed(name).items():
                found[own_name(self._address, name), topic, partition] = offset
        return found

    def _committed(self, kafka_group: str) -> dict[tuple[str, int], int]:
        def asked() -> list[TopicPartition]:
            request = [ConsumerGroupTopicPartitions(kafka_group)]
            futures = self._cluster.admin.list_consumer_group_offsets(request, require_stable=True)
            return list(futures[kafka_group].result(_CALL_S).topic_partitions)

        found = self._cluster.patient("tell the offsets of a group", asked)
        return {(at.topic, at.partition): int(at.metadata) for at in found if at.metadata}
