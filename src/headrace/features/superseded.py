"""Definitions of a notebook that were made again while something still holds the former ones."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable

from headrace.features.definition import Definition, is_bound, unbound


def warn_of_superseded(user: str, classes: Iterable[type]) -> None:
    """Warn of each class that a later cell has defined again: `user`, which holds it, goes on with the former one.

    Only a notebook or a prompt defines a name twice; in files the last one counts and nobody has seen the other.
    """
    main = sys.modules.get("__main__")
    for cls in dict.fromkeys(map(unbound, classes)):
        if cls.__module__ != "__main__" or "." in cls.__qualname__:
            continue
        newest = getattr(main, cls.__name__, None)
        if newest is cls or not isinstance(newest, type) or is_bound(newest):
            continue
        then, now = (each.__dict__.get("__definition__") for each in (cls, newest))
        if isinstance(then, Definition) and isinstance(now, Definition):
            warnings.warn(
                f"{user} uses {cls.__name__} of {then.site.at()}, which {now.site.at()} has defined again since; run "
                f"the cells that use {cls.__name__} again",
                stacklevel=2,
            )
