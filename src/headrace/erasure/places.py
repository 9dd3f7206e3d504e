"""The places in which an entity's data lie, each counted and emptied by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from headrace.aggregations.layout import layout_of
from headrace.core.keys import record_key
from headrace.core.positions import decode_position
from headrace.engines.stream.checkpoints import checkpoint_ids, replace_ids
from headrace.engines.stream.commits import DEAD_LETTERS, TABLES, WINDOWS
from headrace.erasure.archive import ArchiveErasure
from headrace.erasure.commits import CommitErasure, erase_commits
from headrace.erasure.events import Edited, erased_letters, erased_record
from headrace.erasure.predictions import Asked, erased_labels, erased_predictions, erased_truths
from headrace.erasure.rows import erased_rows, rows_of
from headrace.erasure.subject import Subject, fields_of, split_parts
from headrace.eventlog.base import EventLog, LogBatch
from headrace.features.nodes import references
from headrace.features.plan import GroupPlan, KeyPart, ProjectPlan
from headrace.ingestion.backfill import left_out
from headrace.ingestion.expected import Expected, Share
from headrace.ingestion.reconcile import Reconciler
from headrace.monitoring.truth import LABELS
from headrace.monitoring.truth import TOPIC as TRUTH
from headrace.retrieval.prediction_blocks import TOPIC as PREDICTIONS
from headrace.stores.offline.base import OfflineStore
from headrace.stores.online.base import OnlineStore

_READ = 10_000
_AT_ONCE = 10_000
_SHARE = 100_000
"""Records of a store that are computed at once, give or take some."""
_VERSION_BYTES = 8
Change = Callable[[LogBatch], Edited | None]


@dataclass(frozen=True)
class Stores:
    """The logs and stores of a project."""

    raw: EventLog
    features: EventLog
    internal: EventLog
    offline: OfflineStore
    online: OnlineStore


@dataclass
class Places:
    """What a project's logs and stores hold of one entity. The caller sees to it that nobody writes them meanwhile."""

    plan: ProjectPlan
    subject: Subject
    stores: Stores

    def count(self, checkpoint: Path) -> tuple[list[tuple[str, int, str]], bool]:
        """Place, number and kind of what there is, where there is any; and whether ids of events will change."""
        found: list[tuple[str, int, str]] = []
        ids = 0
        for topic in sorted(self.stores.raw.topics()):
            edits = list(self._edits(self.stores.raw, topic, self._raw_change(topic)))
            found.append((f"event log {topic}", sum(edit.found for edit in edits), "events"))
            ids += sum(len(edit.ids) for edit in edits)
        for topic, change in self._feature_changes().items():
            count = sum(edit.found for edit in self._edits(self.stores.features, topic, change))
            found.append((f"feature log {topic}", count, "rows" if topic == TABLES else "letters"))
        found.append((f"feature log {WINDOWS}", self._count_deltas(), "deltas"))
        if ids:
            found.append(("checkpoint", len(self._seen(checkpoint)), "ids"))
        archive = self._archive
        found += [(f"archive {table}", archive.count(table), "rows") for table in self.stores.offline.tables()]
        for topic, change in self._internal_changes().items():
            count = sum(edit.found for edit in self._edits(self.stores.internal, topic, change))
            found.append((f"internal log {topic}", count, "predictions" if topic == PREDICTIONS else "truths"))
        found.append(("online store", sum(1 for _ in self._online_keys()), "records"))
        return [one for one in found if one[1]], ids > 0

    def count_side(self, checkpoint: Path, begin: int) -> list[tuple[str, int, str]]:
        """The same of what a side beside has for itself; `begin` is the first of its own commits."""
        found = [
            (f"feature log {WINDOWS}", self._count_deltas(begin), "deltas"),
            ("checkpoint", len(self._seen(checkpoint)), "ids"),
            ("online store", sum(1 for _ in self._online_keys()), "records"),
        ]
        return [one for one in found if one[1]]

    # -- steps ------------------------------------------------------------------------------------------------------

    def erase_checkpoint(self, file: Path) -> None:
        """Ids that become pseudonyms in the events become the same ones here: what was decided by them stays."""
        ids: dict[str, dict[Any, Any]] = {}
        for topic in self.stores.raw.topics():
            for edit in self._edits(self.stores.raw, topic, self._raw_change(topic)):
                ids.setdefault(topic, {}).update(edit.ids)
        for topic, seen in checkpoint_ids(file, self.stores.features).items():
            # The log may have dropped the events of ids that the checkpoint remembers.
            ids.setdefault(topic, {}).update({id: self.subject.pseudonym(id) for id in seen if self._named(id)})
        replace_ids(file, self.stores.features, ids)

    def erase_features(self) -> None:
        """The feature log: first what is computed from events, while these still say whose they are."""
        log = self.stores.features
        if not log.editable:
            return
        self.erase_commits()
        for topic, change in self._feature_changes().items():
            self._rewrite(log, topic, change)

    def erase_commits(self, begin: int = 0) -> None:
        """Commits from `begin` on, where they can be edited."""
        if self.stores.features.editable:
            erase_commits(replace(self._commits, begin=begin))

    def rows_that_stay(self) -> list[int]:
        """Offsets of the entity's rows of tables in a feature log that cannot be edited."""
        log = self.stores.features
        if log.editable or TABLES not in log.topics():
            return []
        batches = _batches(log, TABLES, 0)
        return [at for batch in batches for at in rows_of(batch.payload, batch.base, self.subject, self.plan)]

    def erase_raw(self) -> None:
        """Events, derived records, dead letters of no stream, and what was said about letters."""
        for topic in self.stores.raw.topics():
            if self.stores.raw.editable:
                self._rewrite(self.stores.raw, topic, self._raw_change(topic))

    def erase_archive(self) -> None:
        """The offline store."""
        for table in self.stores.offline.tables():
            self._archive.erase(table)

    def erase_internal(self) -> None:
        """Predictions, and first the truths that are found by them."""
        log = self.stores.internal
        if log.editable:
            for topic, change in self._internal_changes().items():
                self._rewrite(log, topic, change)

    def erase_online(self) -> None:
        """Records whose key has the entity's in it, of all versions."""
        keys: list[bytes] = []
        for key in self._online_keys():
            keys.append(key)
            if len(keys) == _AT_ONCE:
                self._delete(keys)
                keys = []
        self._delete(keys)

    def read_by(self, *, ids: bool) -> list[GroupPlan]:
        """Groups whose values of others may have been made of what is erased; see `repair_others`."""
        return [group for group in self.plan.computed_groups if self._reads_erased(group, ids=ids)]

    def repair_others(self, expected: Expected, *, ids: bool) -> int:
        """Compute records of others again which read what is erased; returns how many changed. `ids`: whether ids of
        events have changed, which decide between events of one time."""
        chosen = {group.version: group for group in self.read_by(ids=ids)}
        if not chosen:
            return 0
        plan = replace(self.plan, groups={g.name: g for g in chosen.values()}, kept_groups={}, tables={})
        worker = Reconciler(plan, self.stores.features, self.stores.online, expected)
        shares = self.stores.online.count() // _SHARE + 1
        repaired = 0
        for groups, at in worker.by_stream(decode_position(self.stores.online.position())):
            ends = tuple(bytes.fromhex(group.version) for group in groups)
            for share in (Share(number, shares) for number in range(shares)):
                wanted: dict[bytes, bytes | None] = {}
                without = left_out(self.stores.online, groups)
                for records in expected.groups(groups, at, share, left_out=without):
                    wanted |= records
                repaired += self._replace(wanted, ends, share)
        return repaired

    def remains(self) -> list[str]:
        """What could not be erased, and until when it is there."""
        found = []
        logs = {"event log": self.stores.raw, "feature log": self.stores.features, "internal log": self.stores.internal}
        for name, log in logs.items():
            if log.editable:
                continue
            ends = ", ".join(
                f"{topic}/{p} below offset {log.end(topic, p)}"
                for topic, n in sorted(log.topics().items())
                for p in range(n)
                if log.end(topic, p) > log.begin(topic, p)
            )
            if ends:
                found.append(f"{name} on Kafka, whose messages cannot be edited, until they are trimmed: {ends}")
        return found + self.stores.online.remains() + self.stores.offline.remains()

    # -- inside -----------------------------------------------------------------------------------------------------

    @cached_property
    def _archive(self) -> ArchiveErasure:
        return ArchiveErasure(self.plan, self.stores.offline, self.subject)

    @property
    def _commits(self) -> CommitErasure:
        stores = self.stores
        return CommitErasure(self.plan, stores.raw, stores.features, stores.offline, self.subject)

    def _raw_change(self, topic: str) -> Change:
        fields = fields_of(self.plan, topic, self.subject.entity)
        return lambda batch: erased_record(topic, batch.payload, self.subject, fields, batch.count)

    def _feature_changes(self) -> Mapping[str, Change]:
        changes: dict[str, Change] = {
            TABLES: lambda batch: erased_rows(batch.payload, self.subject, self.plan),
            DEAD_LETTERS: lambda batch: erased_letters(batch.payload, self.subject),
        }
        return {topic: change for topic, change in changes.items() if topic in self.stores.features.topics()}

    def _internal_changes(self) -> Mapping[str, Change]:
        """In the order in which they have to be made."""
        log, asked = self.stores.internal, Asked()
        if PREDICTIONS in log.topics():
            for batch in _batches(log, PREDICTIONS, 0):
                asked.note(batch.payload, self.subject, self.plan)
        changes: dict[str, Change] = {
            LABELS: lambda batch: erased_labels(batch.payload, self.subject, asked),
            TRUTH: lambda batch: erased_truths(batch.payload, asked.predictions),
            PREDICTIONS: lambda batch: erased_predictions(batch.payload, self.subject, self.plan),
        }
        return {topic: change for topic, change in changes.items() if topic in log.topics()}

    def _edits(self, log: EventLog, topic: str, change: Change) -> Iterator[Edited]:
        if not log.editable:
            return
        for partition in range(log.topics()[topic]):
            for batch in _batches(log, topic, partition):
                found = change(batch)
                if found is not None:
                    yield found

    def _rewrite(self, log: EventLog, topic: str, change: Change) -> None:
        def payload(batch: LogBatch) -> bytes | None:
            found = change(batch)
            return None if found is None else found.payload

        for partition in range(log.topics()[topic]):
            log.rewrite(topic, partition, payload)

    def _count_deltas(self, begin: int = 0) -> int:
        """Deltas of the entity in commits from `begin` on, by group."""
        from headrace.engines.stream.commits import decode_commit

        if WINDOWS not in self.stores.features.topics():
            return 0
        found = 0
        for batch in _batches(self.stores.features, WINDOWS, 0):
            if batch.base >= begin and self.subject.part in batch.payload:
                groups = decode_commit(batch.payload).groups
                found += sum(self._owns(version, key) for version, delta in groups.items() for key in delta.keys)
        return found

    def _seen(self, checkpoint: Path) -> list[Any]:
        ids = {
            id
            for topic in self.stores.raw.topics()
            for edit in self._edits(self.stores.raw, topic, self._raw_change(topic))
            for id in edit.ids
        }
        return [
            id
            for seen in checkpoint_ids(checkpoint, self.stores.features).values()
            for id in seen
            if id in ids or self._named(id)
        ]

    def _named(self, id: Any) -> bool:
        return self.subject.named_in(id)

    @cached_property
    def _keys(self) -> dict[str, tuple[KeyPart, ...]]:
        """The keys of groups and tables by version."""
        tables = {table.version: table.key for table in self.plan.tables.values()}
        return tables | {group.version: group.key for group in self.plan.computed_groups}

    def _owns(self, version: str, entity: bytes) -> bool:
        key = self._keys.get(version)
        if key is None:
            return self.subject.part in split_parts(entity)
        return self.subject.owns(key, entity)

    def _online_keys(self) -> Iterator[bytes]:
        hashed = {record_key(self.subject.part, version) for version in self._keys}
        for key, _ in self.stores.online.scan():
            entity, version = key[:-_VERSION_BYTES], key[-_VERSION_BYTES:].hex()
            if key in hashed or (self.subject.part in key and self._owns(version, entity)):
                yield key

    def _delete(self, keys: list[bytes]) -> None:
        if keys:
            self.stores.online.revise(keys, lambda records: [(key, None) for key in keys])

    def _reads_erased(self, group: GroupPlan, *, ids: bool) -> bool:
        """True if a value of another entity may depend on what is erased of the events."""
        if self.subject.whole:
            return bool(fields_of(self.plan, group.stream, self.subject.entity).roles)
        fields = fields_of(self.plan, group.stream, self.subject.entity)
        schema = self.plan.stream(group.stream).schema
        texts = {name for spec in schema if spec.dtype == "string" for name in spec.names} if fields.roles else set()
        gone = fields.roles | fields.personal | fields.references | texts
        nodes = [spec.node for spec in group.inputs] + ([] if group.where is None else [group.where])
        return any(references(node) & gone for node in nodes) or (ids and layout_of(group).ordered)

    def _replace(self, wanted: Mapping[bytes, bytes | None], ends: tuple[bytes, ...], share: Share) -> int:
        """Make the store hold just the records that are wanted of these versions in a share."""
        online = self.stores.online
        have: dict[bytes, bytes] = {}
        for key, record in online.scan():
            if key.endswith(ends) and not key.startswith(b"\xff") and (share.of == 1 or share.holds([key])[0]):
                have[key] = record
        wrong = sorted(key for key in have.keys() | wanted.keys() if have.get(key) != wanted.get(key))
        for start in range(0, len(wrong), _AT_ONCE):
            some = wrong[start : start + _AT_ONCE]
            online.revise(some, lambda _, some=some: [(key, wanted.get(key)) for key in some])  # type: ignore[misc]
        return len(wrong)


def _batches(log: EventLog, topic: str, partition: int) -> Iterator[LogBatch]:
    at = log.begin(topic, partition)
    while batches := log.read(topic, partition, at, _READ):
        yield from batches
        at = batches[-1].end
