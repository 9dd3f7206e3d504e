"""Versions: a hash of what is computed, not of what it is called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from headrace.features.nodes import Call, ColumnRef, Literal, Node


def digest(content: Any) -> str:
    """16 hex digits over a canonical JSON of `content` (lists, texts, numbers, booleans, None)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def node_content(node: Node | None, columns: Mapping[str, Any] | None = None) -> Any:
    """Canonical form of an expression; `columns` replaces the names of columns by what they are."""
    if node is None:
        return None
    if isinstance(node, ColumnRef):
        return ["column", node.name if columns is None else columns.get(node.name, node.name), node.dtype.value]
    if isinstance(node, Literal):
        return ["literal", _plain(node.value), node.dtype.value]
    args = [node_content(arg, columns) for arg in node.args]
    if isinstance(node, Call):
        return ["call", node.op, args, [_plain(param) for param in node.params], node.dtype.value]
    return ["function", node.source_hash, args, node.dtype.value, node.null_pass]


def _plain(value: Any) -> Any:
    # repr tells 1.0 from 1 and keeps every bit of a float, whatever the JSON writer does.
    return ["float", repr(value)] if isinstance(value, float) else value
