"""What every event log refuses, in the same words."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Final

import msgspec

from headrace.core.errors import HeadraceError, LogError, LogMoved, NotFound
from headrace.eventlog.base import LogBatch

MAX_NAME_BYTES: Final = 128
"""Longest name of a topic or consumer group."""


def check_name(kind: str, name: str) -> None:
    """Raise LogError unless `name` can be the name of a topic or consumer group."""
    if not name or "\0" in name or len(name.encode()) > MAX_NAME_BYTES:
        raise LogError(f'{kind} "{name}" is no usable name: give it 1 to {MAX_NAME_BYTES} bytes without NUL')


def check_partitions(topic: str, partitions: int, existing: int | None) -> None:
    """Raise LogError unless a topic of `existing` partitions (None: no such topic) can be created with `partitions`."""
    check_name("topic", topic)
    if partitions < 1:
        raise LogError(f'topic "{topic}" cannot have {partitions} partitions: give it at least 1')
    if existing is not None and existing != partitions:
        raise LogError(
            f'topic "{topic}" exists with {existing} partitions, not {partitions}: '
            f"ask for {existing}, or use another topic name"
        )


def check_count(topic: str, partition: int, count: int) -> None:
    """Raise LogError unless a batch can hold `count` records."""
    if not 1 <= count < 2**32:
        raise LogError(f"a batch for {topic}/{partition} says it holds {count} records: it must hold at least 1")


def check_base(topic: str, partition: int, wanted: int | None, base: int) -> None:
    """Raise LogMoved unless a batch may stand at offset `base`; `wanted` is what its writer asked for."""
    if wanted is not None and wanted != base:
        raise LogMoved(
            f"{topic}/{partition} goes on at offset {base}, its writer has left it at {wanted}: another one writes "
            f"there too; stop one of them, the other goes on from what is in the log"
        )


def no_topic(topic: str, partition: int, topics: dict[str, int]) -> NotFound:
    """The error for a topic or partition that does not exist."""
    if topic in topics:
        return NotFound(f'topic "{topic}" has partitions 0 to {topics[topic] - 1}, not {partition}')
    return NotFound(f'no topic "{topic}"; {_near(topic, topics)}create it first')


@contextmanager
def decoding(batch: LogBatch) -> Iterator[None]:
    """Say of what cannot be decoded where it stands and what to do: LogError, for a batch may not be skipped."""
    try:
        yield
    except (HeadraceError, msgspec.DecodeError, struct.error, IndexError) as error:
        cure = "; nothing behind it is taken: restore the log, or use the version of headrace that wrote it"
        if isinstance(error, LogError):
            cure = ""  # it brings its own
        raise LogError(
            f"topic {batch.topic}, partition {batch.partition}, offset {batch.base}: {error}{cure}"
        ) from None


def below_begin(topic: str, partition: int, offset: int, begin: int) -> LogError:
    """The error for a read below what is still held."""
    return LogError(
        f"offset {offset} of {topic}/{partition} is not held any more, the log begins at {begin}: "
        f"read from there, or rebuild what came before from the archive"
    )


def _near(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=3)
    return f"near names: {', '.join(near)}; " if near else ""
