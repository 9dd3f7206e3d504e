"""The process that erases for a service: takes an order from standard input, and says a line of JSON when the erasure
has begun and another one when it has ended. Whether anybody still listens makes no difference to it."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from headrace.app.erasing import ErasureReceipt, erase
from headrace.app.erasures import Order, Word
from headrace.app.project import Project
from headrace.core.errors import HeadraceError


def main() -> int:
    """Do what was ordered; returns the exit code."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    try:
        with closing(Project.open(order.folder, env=order.env, state=order.state)) as project:
            project.ensure_applied()
            done = erase(
                project.parts, order.entity, order.key, who=order.who, events=order.events, dry_run=order.dry_run,
                begun=_told,
            )  # fmt: skip
            _told(done)
    except HeadraceError as error:
        _say(Word(error=str(error), kind=type(error).__name__, field=getattr(error, "field", None)))
        return 1
    except Exception as error:
        # What the error says may be the key: where it was raised is enough to find it.
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        where = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        _say(Word(error=f"{type(error).__name__} in {where}", kind="StoreError"))
        return 1
    return 0


def _told(receipt: ErasureReceipt) -> None:
    _say(Word(receipt))


def _say(word: Word) -> None:
    with suppress(OSError):  # the service is stopped when the layers start anew, which is before the end
        os.write(1, msgspec.json.encode(word) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
