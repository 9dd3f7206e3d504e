"""EventLog in Kafka: `log.KafkaEventLog` holds record batches, `raw.KafkaRawLog` beside them single events."""
