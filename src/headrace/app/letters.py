"""Dead letters in a caller's hands: look, publish again, correct, drop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from headrace.app.locks import FolderLock
from headrace.app.users import os_user
from headrace.engines.stream.letters import Chosen, Letter, LetterCount, Listing, Replayed
from headrace.ingestion.letters import DeadLetters

if TYPE_CHECKING:
    from headrace.app.wiring import Parts

__all__ = ["Chosen", "ChosenLetters", "Letter", "LetterCount", "Replayed", "letters_of"]


def letters_of(parts: Parts) -> DeadLetters:
    """The dead letters of a project; what is done with them is logged in the catalog."""
    return DeadLetters(
        parts.features, parts.raw, parts.publisher(), parts.plan.streams, parts.clock, partial(_alone, parts),
        lambda who, what, which, detail: parts.catalog.changes.add(who, what, which, detail),
    )  # fmt: skip


class ChosenLetters:
    """The dead letters that a condition holds for; `Project.dead_letters` makes it.

    Iterating gives the newest of them, `limit` at most, as they were when first looked at; `len` is how many there are.
    Actions choose anew: they act on what the condition holds for when they are called.
    """

    def __init__(
        self, letters: DeadLetters, chosen: Chosen, limit: int, settle: Callable[[], object], personal: bool
    ) -> None:
        self._letters = letters
        self._chosen = chosen
        self._limit = limit
        self._settle = settle
        self._personal = personal

    @cached_property
    def _found(self) -> Listing:
        return self._letters.find(self._chosen, limit=self._limit, personal=self._personal)

    @property
    def counts(self) -> list[LetterCount]:
        """How many there are by stream, field and reason, the most frequent first."""
        return self._found.counts

    def __len__(self) -> int:
        return self._found.total

    def __iter__(self) -> Iterator[Letter]:
        return iter(self._found.letters)

    def __repr__(self) -> str:
        return f"<{len(self)} dead letters>"

    def get(self, letter: str) -> Letter:
        """One letter by its id, whatever was chosen, with where its new event stands. Raises NotFound."""
        return self._letters.get(letter, personal=self._personal)

    def replay(
        self, *, why: str = "", dry_run: bool = False, progress: Callable[[int], object] | None = None
    ) -> Replayed:
        """Publish those again that fit the definitions of today, each once for good; the others stay open."""
        done = self._letters.replay(
            self._chosen, who=os_user(), why=why, dry_run=dry_run, progress=progress, personal=self._personal
        )
        if done.published and not dry_run:
            self._settle()
        return done

    def fix(
        self,
        letter: str,
        changes: Mapping[str, Any] | None = None,
        *,
        remove: Sequence[str] = (),
        event: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        stream: str | None = None,
        why: str = "",
    ) -> Letter:
        """Publish the corrected event of one letter: with `changes`, less the fields to `remove`, or a whole `event`.

        Of a letter that is a whole batch `event` is the list of its events. Raises SchemaError naming the field if it
        does not fit either, or if the letter was published before.
        """
        fixed = self._letters.fix(
            letter, changes, who=os_user(), why=why, remove=remove, event=event, stream=stream, personal=self._personal
        )  # fmt: skip
        self._settle()
        return fixed

    def drop(self, *, why: str) -> int:
        """Mark the open ones among them as dropped, with the reason; returns how many. They are not erased."""
        return self._letters.drop(self._chosen, who=os_user(), why=why, personal=self._personal)


@contextmanager
def _alone(parts: Parts) -> Iterator[None]:
    """No other process acts on letters meanwhile."""
    with ExitStack() as held:
        held.enter_context(FolderLock(parts.settings.state, "letters"))
        if parts.settings.catalog != "embedded":
            held.enter_context(parts.catalog.hold("letters"))
        yield
