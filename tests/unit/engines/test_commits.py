"""Commits are read as they were written, and those of another format refused."""

from __future__ import annotations

import struct

import pytest

from headrace.core.errors import LogError
from headrace.engines.stream.commits import Commit, GroupDelta, StreamSpan, decode_commit, decode_head, encode_commit

SPANS = {"s": StreamSpan([0, 0], [3, 1], [7, 9])}
DELTA = GroupDelta(
    [b"a", b"b"], [3, 1], struct.pack("<2q", 7, 9), struct.pack("<4q", 3, 0, 0, 1), bytes(32), [bytes(32)], b"", b""
)


def test_a_commit_is_read_as_it_was_written() -> None:
    commit = Commit(2, {"s": [3, 1]}, SPANS, {"v": DELTA}, 4)
    assert decode_commit(encode_commit(commit)) == commit


def test_a_commit_of_another_format_is_refused_by_name() -> None:
    stored = encode_commit(Commit(1, {"s": [3, 1]}, SPANS, {"v": DELTA}, 4))
    for read in (decode_head, decode_commit):
        with pytest.raises(LogError, match="format 1, this version reads 2"):
            read(stored)
