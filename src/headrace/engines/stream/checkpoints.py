"""Checkpoints of stream compute: the verdict state of each partition as of an offset. A restart judges what came after.

A worker that has all partitions to itself keeps them in a file of its own. Workers that share them out keep those of a
share in a topic of the feature log, which is where whoever takes the share over finds them, on any machine.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from headrace.core.errors import LogError, LogMoved
from headrace.engines.stream.verdicts import PartitionState
from headrace.eventlog.base import Append, EventLog

Place = tuple[str, int]
"""A topic and one of its partitions."""
_TOPIC = "checkpoint-"
_PART_BYTES = 16 << 20
"""A message of a Kafka topic has its limit, so a large checkpoint is several records, in one append."""
_part = struct.Struct("<II")


class _SavedPartition(msgspec.Struct, array_like=True):
    clock_us: int
    swept_us: int
    ids: list[Any]
    clocks: list[int]


class _Checkpoint(msgspec.Struct):
    positions: dict[str, list[int]]
    states: dict[str, list[_SavedPartition]]
    format: int = 1


class _Numbered(msgspec.Struct):
    format: int = 1


_FORMAT = 1


class Saved(msgspec.Struct, array_like=True):
    """The state of one partition, and the offset up to which it was judged; `logged`: it was found in the log."""

    at: int
    state: _SavedPartition
    logged: bool = False

    def restore(self, state: PartitionState) -> None:
        """Make `state` what was saved."""
        state.clock_us, state.swept_us = self.state.clock_us, self.state.swept_us
        state.seen = dict(zip(self.state.ids, self.state.clocks, strict=True))


def saved(at: int, state: PartitionState) -> Saved:
    """What to save of a partition."""
    ids, clocks = list(state.seen.keys()), list(state.seen.values())
    return Saved(at, _SavedPartition(state.clock_us, state.swept_us, ids, clocks))


class FileCheckpoint:
    """All partitions in a file, which is written beside and then renamed."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __str__(self) -> str:
        return str(self._file)

    def load(self) -> dict[Place, Saved]:
        """What was saved last, by partition; empty if nothing was.

        Raises LogError if it is damaged, or of another format.
        """
        found = self._read()
        if found is None:
            return {}
        return {
            (name, partition): Saved(at, state)
            for name, states in found.states.items()
            for partition, (at, state) in enumerate(zip(found.positions[name], states, strict=False))
        }

    def _read(self) -> _Checkpoint | None:
        file = self._file
        try:
            data = file.read_bytes()
            # The number first: what another format holds may be of another shape.
            written = msgspec.msgpack.decode(data, type=_Numbered).format
            if written == _FORMAT:
                return msgspec.msgpack.decode(data, type=_Checkpoint)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise LogError(
                f"the checkpoint {file} is damaged ({error}): delete it, and compute judges again what the raw topics "
                "still hold; of events that were dropped from them (retention) it no longer knows the ids"
            ) from None
        raise LogError(
            f"{file} has format {written}, this version reads {_FORMAT}: run compute by the version that "
            "wrote it; or delete it, and all that the raw topics still hold is judged again"
        )

    def save(self, parts: Mapping[Place, Saved]) -> None:
        """Replace it; `parts` holds every partition of its streams."""
        positions: dict[str, list[int]] = {}
        states: dict[str, list[_SavedPartition]] = {}
        for (name, _), part in sorted(parts.items()):
            positions.setdefault(name, []).append(part.at)
            states.setdefault(name, []).append(part.state)
        beside = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(msgspec.msgpack.encode(_Checkpoint(positions, states, _FORMAT)))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._file)
        except OSError as error:
            raise LogError(
                f"the checkpoint {self._file} cannot be written ({error.strerror}); nothing is lost, the former one "
                "stands: free some space and start again"
            ) from error


class LogCheckpoint:
    """The partitions of one share in a topic of the feature log, which holds the last checkpoint alone.

    A worker saves nothing where another one that has come further has saved the share meanwhile.
    """

    def __init__(self, features: EventLog, share: int) -> None:
        self._features, self._topic = features, f"{_TOPIC}{share}"
        self._end = 0

    def __str__(self) -> str:
        return f"topic {self._topic} of the feature log"

    def load(self) -> dict[Place, Saved]:
        """What was saved last, by partition; empty if nothing was."""
        if self._topic not in self._features.topics():
            return {}
        while (last := self._features.last(self._topic, 0)) is not None:
            self._end = last.end
            _, count = _part.unpack_from(last.payload)
            try:
                parts = [last] if count == 1 else self._features.read(self._topic, 0, last.end - count, count)
            except LogError:
                if self._features.end(self._topic, 0) == self._end:
                    raise
                continue  # another worker has just replaced it
            payload = b"".join([part.payload[_part.size :] for part in parts])
            found = msgspec.msgpack.decode(payload, type=list[tuple[Place, Saved]])
            return {place: Saved(part.at, part.state, logged=True) for place, part in found}
        return {}

    def items(self, parts: Mapping[Place, Saved]) -> list[Append]:
        """What to append so that it stands in the place of what was saved before."""
        self._features.create(self._topic)
        data = msgspec.msgpack.encode(list(parts.items()))
        pieces = [data[at : at + _PART_BYTES] for at in range(0, len(data), _PART_BYTES)]
        return [
            Append(self._topic, 0, _part.pack(number, len(pieces)) + piece, base=self._end + number)
            for number, piece in enumerate(pieces)
        ]

    def appended(self, count: int) -> None:
        """Drop what was saved before; `count` items were appended."""
        begin, self._end = self._end, self._end + count
        self._features.trim(self._topic, 0, begin)


def save_shares(
    features: EventLog, shares: Mapping[int, LogCheckpoint], parts: Mapping[int, Mapping[Place, Saved]]
) -> None:
    """Save the partitions of each share, all in one append, or one by one if others have saved some."""
    items = {share: logged.items(parts.get(share, {})) for share, logged in shares.items()}
    if not items:
        return
    try:
        features.append([item for some in items.values() for item in some])
    except LogMoved:
        for share, logged in shares.items():
            held, own = logged.load(), parts.get(share, {})
            if all(place in own and part.at <= own[place].at for place, part in held.items()):
                save_shares(features, {share: logged}, parts)
        return
    for share, logged in shares.items():
        logged.appended(len(items[share]))


def logged_shares(features: EventLog) -> list[int]:
    """The shares that ever saved a checkpoint in the feature log."""
    return sorted(int(topic.removeprefix(_TOPIC)) for topic in features.topics() if topic.startswith(_TOPIC))


def load_all(file: Path, features: EventLog, shares: Collection[LogCheckpoint] | None = None) -> dict[Place, Saved]:
    """The newest that was saved of each partition, in the file or in the feature log (of all shares, or of these)."""
    found = FileCheckpoint(file).load()
    for logged in [LogCheckpoint(features, n) for n in logged_shares(features)] if shares is None else shares:
        for place, part in logged.load().items():
            if place not in found or found[place].at < part.at:
                found[place] = part
    return found


def checkpoint_positions(file: Path, features: EventLog, *, shared: bool) -> dict[str, dict[int, int]]:
    """Offsets by stream and partition below which no restart reads anything again; left out where there is none.

    `shared`: any machine may take a partition over, so only what lies in the feature log counts.
    """
    found: dict[str, dict[int, int]] = {}
    known = {} if shared else FileCheckpoint(file).load()
    for share in logged_shares(features):
        for place, part in LogCheckpoint(features, share).load().items():
            if place not in known or known[place].at < part.at:
                known[place] = part
    for (name, partition), part in known.items():
        found.setdefault(name, {})[partition] = part.at
    return found


def checkpoint_ids(file: Path, features: EventLog) -> dict[str, list[Any]]:
    """The ids by stream that checkpoints remember. Raises LogError as `FileCheckpoint.load` does."""
    found: dict[str, list[Any]] = {}
    logged = [LogCheckpoint(features, share) for share in logged_shares(features)]
    for held in (FileCheckpoint(file).load(), *(one.load() for one in logged)):
        for (name, _), part in held.items():
            found.setdefault(name, []).extend(part.state.ids)
    return found


def replace_ids(file: Path, features: EventLog, ids: Mapping[str, Mapping[Any, Any]]) -> int:
    """Put other ids in the place of some that checkpoints remember, by stream; returns how many. No worker runs."""
    kept = FileCheckpoint(file)
    held = kept.load()
    found = _replaced(held, ids)
    if found:
        kept.save(held)
    for share in logged_shares(features):
        logged = LogCheckpoint(features, share)
        held = logged.load()
        changed = _replaced(held, ids)
        if changed:
            save_shares(features, {share: logged}, {share: held})
        found += changed
    return found


def _replaced(parts: Mapping[Place, Saved], ids: Mapping[str, Mapping[Any, Any]]) -> int:
    found = 0
    for (name, _), part in parts.items():
        new = ids.get(name, {})
        found += sum(id in new for id in part.state.ids)
        part.state.ids = [new.get(id, id) for id in part.state.ids]
    return found
