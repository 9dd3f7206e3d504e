"""What is said of dead letters: the letters, what became of them, which of them are meant."""

from __future__ import annotations

from typing import Final

import msgspec

from headrace.core.errors import SchemaError
from headrace.engines.stream.commits import DeadLetter

STATES: Final = ("open", "replayed", "fixed", "dropped")
KINDS: Final = {"replay": "replayed", "fix": "fixed", "drop": "dropped"}
"""The state that each kind of action brings about."""

Place = tuple[str, int, int]
"""Stream, partition, offset."""


class Span(msgspec.Struct, array_like=True, frozen=True):
    """Where letters were published again: in one partition, in their order, at `begin` or soon after it."""

    stream: str
    partition: int
    begin: int
    letters: list[Place]


class Action(msgspec.Struct, array_like=True, frozen=True):
    """What was done, by whom and why: `kind` replay, fix or drop; `spans` of what was published, `dropped` letters.

    Not `done`: it was announced, and whether it came to pass is to be seen where its spans begin.
    """

    format: int
    kind: str
    at_us: int
    who: str
    why: str
    spans: list[Span] = []
    dropped: list[Place] = []
    done: bool = True


class Mark(msgspec.Struct, frozen=True):
    """What became of one letter; `published` is where its new event stands ("stream/partition/offset"), None if it was
    dropped or if the log does not hold the event any more."""

    state: str
    at: str
    who: str
    why: str
    published: str | None = None


class Letter(msgspec.Struct, frozen=True):
    """An event that was set aside.

    `id` is "stream/partition/offset"; `field` "" if no single one is at fault; `payload` is what was sent, as JSON
    text; `state` open, replayed, fixed or dropped; `mark` says who did that (None while it is open).
    """

    id: str
    stream: str
    partition: int
    offset: int
    field: str
    reason: str
    arrival: str
    payload: str
    state: str = "open"
    mark: Mark | None = None


class LetterCount(msgspec.Struct, frozen=True):
    """How many letters of one stream have the same field at fault for the same reason."""

    stream: str
    field: str
    reason: str
    count: int


class Chosen(msgspec.Struct, frozen=True):
    """Which letters are meant: all that every given condition holds for.

    `letters` are ids; `reason` a part of it, whatever the case; times are of arrival, in [since, until) µs UTC; `state`
    one of `STATES` or "all".
    """

    letters: tuple[str, ...] = ()
    stream: str | None = None
    field: str | None = None
    reason: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    state: str = "open"

    def __post_init__(self) -> None:
        if self.state not in (*STATES, "all"):
            raise SchemaError(
                f'there is no state "{self.state}"; there are {", ".join((*STATES, "all"))}', field="state"
            )

    @property
    def names_some(self) -> bool:
        """True if anything but the state narrows it down."""
        return bool(self.letters) or any(
            item is not None for item in (self.stream, self.field, self.reason, self.since_us, self.until_us)
        )

    def holds(self, letter: DeadLetter) -> bool:
        """True if it is meant, its state aside."""
        if self.stream is not None and letter.stream != self.stream:
            return False
        if self.field is not None and letter.field != self.field:
            return False
        if self.reason is not None and self.reason.lower() not in letter.reason.lower():
            return False
        if self.since_us is not None and letter.arrival_us < self.since_us:
            return False
        return self.until_us is None or letter.arrival_us < self.until_us


class Listing(msgspec.Struct, frozen=True):
    """The newest of the chosen letters, how many there are in all, and how many for which reason, most frequent
    first (at most 20 of these)."""

    total: int
    letters: list[Letter]
    counts: list[LetterCount]


class Refit(msgspec.Struct, frozen=True):
    """A letter that does not fit today either."""

    id: str
    field: str
    reason: str


class Replayed(msgspec.Struct, frozen=True):
    """What a replay did: letters published again, and those that still do not fit (at most 20 are shown)."""

    published: int
    left: int
    refused: list[Refit]


def letter_id(place: Place) -> str:
    """A letter's name: "stream/partition/offset"."""
    return "/".join(map(str, place))


def place_of_id(letter: str) -> Place:
    """The place that an id names; raises SchemaError if it names none."""
    stream, _, rest = letter.partition("/")
    partition, _, offset = rest.partition("/")
    if not (stream and partition.isdecimal() and offset.isdecimal()):
        raise SchemaError(f'"{letter}" names no letter; write STREAM/PARTITION/OFFSET, as they are listed')
    return stream, int(partition), int(offset)


def in_words(chosen: Chosen) -> str:
    """A choice in words, for the log of changes."""
    if chosen.letters:
        more = len(chosen.letters) - 3
        return ", ".join(chosen.letters[:3]) + (f" and {more} more" if more > 0 else "")
    told = [f"{name} {value}" for name in ("stream", "field", "reason") if (value := getattr(chosen, name)) is not None]
    return ", ".join(told) or "all open letters"
