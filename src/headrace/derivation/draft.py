"""The feature log as of one moment, with commits behind it that are not in it yet."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.core.errors import LogError
from headrace.engines.stream.commits import FORMAT, TABLES, WINDOWS, Commit, StreamSpan, encode_commit
from headrace.engines.stream.worker import read_heads
from headrace.eventlog.base import Append, EventLog, LogBatch


class DraftLog(EventLog):
    """What was in the feature log at the last `refresh`, and spans of derived streams that nobody was told of.

    Whoever reads commits reads the drafted ones like any other. Writing goes through `publish` alone.

    Attributes:
        windows, tables: the ends of the two topics at the last `refresh`.
        positions: of the last commit, drafted ones included.
    """

    def __init__(self, features: EventLog) -> None:
        self._features = features
        self._spans: list[tuple[str, StreamSpan]] = []
        self._payloads: list[bytes] = []
        self.windows = self.tables = 0
        self.positions: dict[str, list[int]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take in what has come to the log; drafted commits stand behind that from now on."""
        features = self._features
        topics = features.topics()
        self.windows = features.end(WINDOWS, 0) if WINDOWS in topics else 0
        self.tables = features.end(TABLES, 0) if TABLES in topics else 0
        last = read_heads(features, self.windows - 1, 1) if self.windows else []
        self.positions = dict(last[0][1].positions) if last else {}
        self._payloads = []
        for topic, span in self._spans:
            self._write(topic, span)

    def draft(self, topic: str, span: StreamSpan) -> None:
        """Add a commit of a span of a derived stream, behind all others."""
        self._spans.append((topic, span))
        self._write(topic, span)

    def publish(self) -> None:
        """Append the drafted commits to the feature log. Raises LogMoved if anybody else appended since `refresh`."""
        self._features.append(
            [Append(WINDOWS, 0, data, base=self.windows + index) for index, data in enumerate(self._payloads)]
        )
        self._spans = []
        self.refresh()

    def _write(self, topic: str, span: StreamSpan) -> None:
        self.positions = {**self.positions, topic: span.end}
        self._payloads.append(encode_commit(Commit(FORMAT, self.positions, {topic: span}, {})))

    def create(self, topic: str, partitions: int = 1) -> None:
        raise self._refusal()

    def topics(self) -> dict[str, int]:
        return self._features.topics()

    def append(self, items: Sequence[Append]) -> list[int]:
        raise self._refusal()

    def read(self, topic: str, partition: int, offset: int, max_records: int = 10_000) -> list[LogBatch]:
        held = {WINDOWS: self.windows, TABLES: self.tables}[topic]
        found = self._features.read(topic, partition, offset, max_records) if offset < held else []
        found = [batch for batch in found if batch.base < held]
        if topic == WINDOWS:
            first, left = max(offset - held, 0), max_records - sum(batch.count for batch in found)
            for index in range(first, min(first + left, len(self._payloads))):
                found.append(LogBatch(topic, 0, held + index, 1, 0, self._payloads[index]))
        return found

    def begin(self, topic: str, partition: int) -> int:
        return self._features.begin(topic, partition)

    def end(self, topic: str, partition: int) -> int:
        return self.tables if topic == TABLES else self.windows + len(self._payloads)

    def last(self, topic: str, partition: int) -> LogBatch | None:
        end = self.end(topic, partition)
        found = self.read(topic, partition, end - 1, 1) if end > self.begin(topic, partition) else []
        return found[-1] if found else None

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        raise self._refusal()

    def committed(self, group: str, topic: str, partition: int) -> int:
        return self._features.committed(group, topic, partition)

    def groups(self) -> dict[tuple[str, str, int], int]:
        return self._features.groups()

    def trim(self, topic: str, partition: int, before: int) -> int:
        raise self._refusal()

    def sync(self) -> None:
        self._features.sync()

    def close(self) -> None:
        """Nothing: the log is the caller's."""

    @staticmethod
    def _refusal() -> LogError:
        return LogError("a draft of the feature log is read only")
