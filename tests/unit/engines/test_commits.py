"""Commits are read as they were written, also by an earlier release."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from headrace.engines.stream.commits import Commit, GroupDelta, StreamSpan, decode_commit, encode_commit

SPANS = {"s": StreamSpan([0, 0], [3, 1], [7, 9])}
DELTA = GroupDelta(
    [b"a", b"b"], [3, 1], struct.pack("<2q", 7, 9), struct.pack("<4q", 3, 0, 0, 1), bytes(32), [bytes(32)], b"", b""
)


def test_a_commit_is_read_as_it_was_written() -> None:
    commit = Commit(2, {"s": [3, 1]}, SPANS, {"v": DELTA}, 4)
    assert decode_commit(encode_commit(commit)) == commit


def test_format_1_held_clocks_and_positions_in_lists() -> None:
    former: list[Any] = [[b"a", b"b"], [3, 1], [7, 9], [[3, 0], [0, 1]], bytes(32), [bytes(32)], b"", b"", None, []]
    head = msgspec.msgpack.encode([1, {"s": [3, 1]}, SPANS])
    stored = struct.pack("<I", len(head)) + head + msgspec.msgpack.encode(({"v": former}, 4))
    assert decode_commit(stored) == Commit(1, {"s": [3, 1]}, SPANS, {"v": DELTA}, 4)
