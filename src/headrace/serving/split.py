"""Which requests a version on trial answers: the same ones in every process, after every restart, and asked again.

A request is the canary's if the hash of its id lies below the share; BLAKE2b of the text, with the model and the
version as its key, so that the next version is tried on others. By an entity's field instead, all requests of an
entity are answered by one version. A null belongs to nobody, and the champion answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from headrace.core.columns import BoolArray, Column
from headrace.core.schema import Schema

_WORD = 1 << 64
_SETTING = "canary "


@dataclass(frozen=True, slots=True)
class Split:
    """The version `number` answers this share (0 to 1) of the requests, chosen by field `by` or by the request's id."""

    number: int
    share: float
    by: str | None = None

    def chosen(self, model: str, schema: Schema, request: Mapping[str, Column]) -> BoolArray:
        """Which of the `n` requests are the canary's: bool [n]."""
        start = blake2b(digest_size=8, key=f"{self.number} {model}".encode()[:64])
        below = int(self.share * _WORD)

        def is_chosen(text: str | None) -> bool:
            if text is None:
                return False
            state = start.copy()
            state.update(text.encode())
            return int.from_bytes(state.digest(), "big") < below

        return np.array([is_chosen(text) for text in self._texts(schema, request)], np.bool_)

    def _texts(self, schema: Schema, request: Mapping[str, Column]) -> Sequence[str | None]:
        field = self.by or schema.id_field
        if field is None:
            # Requests without an id are told apart by all that they say.
            whole = zip(*(request[field.name].to_pylist() for field in schema), strict=True)
            return [repr(values) for values in whole]
        return [None if value is None else str(value) for value in request[field].to_pylist()]


def read_split(setting: Callable[[str], Any], model: str) -> Split | None:
    """The split of a model, from the catalog's settings; None if none was ever made."""
    stored = setting(_SETTING + model)
    return None if stored is None else Split(stored["number"], stored["share"], stored["by"])


def write_split(set_setting: Callable[[str, Any], object], model: str, split: Split) -> None:
    """Keep the split. It counts while the alias `canary` names its version, so write it before the alias moves."""
    set_setting(_SETTING + model, {"number": split.number, "share": split.share, "by": split.by})
