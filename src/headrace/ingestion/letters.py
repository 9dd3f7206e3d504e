"""Dead letters and what became of them: shown, published again, corrected, dropped; never edited, never erased.

A letter is named by the place of its event: stream, partition, offset. What is done with it is an action, a record of
topic `_dead_letters` in the log of raw events. The new event is an ordinary one, and names the letter that it mends in
a column beside its fields. Publishing is announced by an action, then done, then recorded by another; if a kill comes
between, whoever looks next finds in the log which of the announced events are there, and records these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from heapq import nlargest
from typing import Any, Final

import msgspec
import numpy as np

from headrace.core.columns import Column, column_of
from headrace.core.errors import Busy, NotFound, SchemaError
from headrace.core.events import EventBlock, concat_blocks, decode_block
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import Clock, format_duration, to_iso
from headrace.core.unreadable import WITH_BATCH, is_whole_batch, kept_of, without_bytes
from headrace.engines.stream.commits import DEAD_LETTERS, DeadLetter, decode_dead_letters
from headrace.engines.stream.letters import (
    KINDS,
    Action,
    Chosen,
    Letter,
    LetterCount,
    Listing,
    Mark,
    Place,
    Refit,
    Replayed,
    Span,
    in_words,
    letter_id,
    place_of_id,
)
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.features.plan import StreamPlan
from headrace.ingestion.masking import Masker
from headrace.ingestion.publisher import UNKNOWN_TOPIC, Publisher

ACTIONS: Final = "_dead_letters"
"""Topic of the log of raw events: what was done with dead letters."""
MENDS: Final = "_mends"
"""Column of a block beside the fields of its stream: the letter that a row mends. No field can have this name."""

_FORMAT = 1
_READ = 10_000
_SHOWN = 20
_NO_FIELDS = Schema(UNKNOWN_TOPIC, (), None)
_MENDED = Schema("mended", (Field(MENDS, DType.STRING, nullable=True),), None)


class DeadLetters:
    """The dead letters of a project.

    Letters are read from the feature log and, for events of no declared stream, from the log of raw events. `lock`
    gives a context in which no other process acts on letters; `acted` is told who, what, on what, and details, after
    each action. `at_once` letters go into one append. Thread-safe as far as `lock` is.
    """

    def __init__(
        self,
        features: EventLog,
        raw: EventLog,
        publisher: Publisher,
        streams: Mapping[str, StreamPlan],
        clock: Clock,
        lock: Callable[[], AbstractContextManager[object]],
        acted: Callable[[str, str, str, dict[str, Any]], object] | None = None,
        *,
        at_once: int = 1_000,
    ) -> None:
        self._features = features
        self._raw = raw
        self._publisher = publisher
        self._streams = dict(streams)
        self._clock = clock
        self._lock = lock
        self._acted = acted
        self._at_once = at_once
        self._masker = Masker(streams)
        self._marks: dict[Place, tuple[Action, Span | None]] = {}
        self._seen = 0
        self._announced: Action | None = None

    # -- looking ----------------------------------------------------------------------------------------------------

    def find(self, chosen: Chosen | None = None, *, limit: int = 100, personal: bool = False) -> Listing:
        """The newest `limit` of the chosen letters (all open ones), and how many there are for which reason.

        Values of personal fields are hidden unless `personal`, here and in all that follows.
        """
        counts: Counter[tuple[str, str, str]] = Counter()
        self._look()

        def counted() -> Iterator[DeadLetter]:
            for letter in self._chosen(chosen or Chosen(), personal):
                if is_whole_batch(letter.reason):
                    letter.payload = without_bytes(letter.payload)
                seen = letter if personal else self._masker.letter(letter)
                counts[seen.stream, seen.field, seen.reason] += 1
                yield seen

        newest = nlargest(max(limit, 1), counted(), key=lambda letter: (letter.arrival_us, letter.offset))
        groups = [LetterCount(*group, count) for group, count in counts.most_common(_SHOWN)]
        return Listing(counts.total(), [self._letter(one, personal=True) for one in newest[:limit]], groups)

    def count(self) -> tuple[int, int]:
        """How many letters there are, and with how many nothing was done yet; reads none of them."""
        self._look()
        known = sum(log.end(topic, 0) - log.begin(topic, 0) for log, topic in self._topics())
        return known, max(known - len(self._marks), 0)

    def get(self, letter: str, *, personal: bool = False) -> Letter:
        """One letter by its id, with where its new event stands; raises NotFound."""
        self._look()
        found = self._letter(self._one(letter), personal=personal)
        if found.mark is None:
            return found
        _, span = self._marks[place_of_id(letter)]
        where = None if span is None else self._published(letter, span)
        return msgspec.structs.replace(found, mark=msgspec.structs.replace(found.mark, published=where))

    # -- acting -----------------------------------------------------------------------------------------------------

    def replay(
        self,
        chosen: Chosen | None = None,
        *,
        who: str,
        why: str = "",
        dry_run: bool = False,
        personal: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Replayed:
        """Publish again what fits today: of the chosen letters those that are open, and of letters that are named one
        by one those that were dropped, too. Each is published once, however often this is called or killed.

        `dry_run` only tells what would happen; `progress` is told how many were published.
        """
        asked = chosen or Chosen()
        if asked.letters:
            asked = msgspec.structs.replace(asked, state="all")
        done, left, refused = 0, 0, list[Refit]()
        with self._lock():
            self._catch_up()
            named = bool(asked.letters)
            waiting = (one for one in self._chosen(asked, personal) if self._may_publish(one, named=named))
            for batch in _in_batches(waiting, self._at_once):
                events: list[tuple[Place, str, Any]] = []
                misfits: list[Refit] = []
                blocks: dict[str, EventBlock] = {}
                for letter in batch:
                    if is_whole_batch(letter.reason):
                        self._add_batch(letter, blocks, misfits)
                        continue
                    stream, event, reason = self._event_of(letter)
                    if reason is None:
                        events.append((_place_of(letter), stream, event))
                    else:
                        misfits.append(Refit(letter_id(_place_of(letter)), "stream", reason))
                for name, block in self._fitting(events, misfits, personal).items():
                    blocks[name] = concat_blocks([blocks[name], block]) if name in blocks else block
                published = sum(block.n for block in blocks.values())
                if published and not dry_run:
                    self._publish("replay", blocks, who, why)
                done, left = done + published, left + len(misfits)
                refused += misfits[: _SHOWN - len(refused)]
                if progress is not None:
                    progress(done)
        if done and not dry_run:
            self._tell(who, "replay", in_words(asked), {"published": done, "left": left, "why": why})
        return Replayed(done, left, refused)

    def fix(
        self,
        letter: str,
        changes: Mapping[str, Any] | None = None,
        *,
        who: str,
        why: str = "",
        remove: Sequence[str] = (),
        event: Any = None,
        stream: str | None = None,
        personal: bool = False,
    ) -> Letter:
        """Publish the corrected event of a letter: its own with `changes` and less `remove`, or a whole `event`.

        `stream` is where it goes (its own). Of a letter that is a whole batch `event` is the list of its events. Raises
        SchemaError naming the field if the event does not fit either, or if the letter was published before; then
        nothing is published.
        """
        with self._lock():
            self._catch_up()
            dead = self._one(letter)
            place = _place_of(dead)
            if not self._may_publish(dead, named=True):
                action, span = self._marks[place]
                where = self._published(letter, span) if span is not None else None
                raise SchemaError(
                    f"letter {letter} was {KINDS[action.kind]} by {action.who} at {to_iso(action.at_us)} as "
                    f"{where or 'an event'}; publish a further correction as an event of its own"
                )
            target, own = self._stream_of(dead)
            given = own if event is None else event
            whole = is_whole_batch(dead.reason)
            if whole and (event is None or changes or remove):
                raise SchemaError(
                    f"letter {letter} is a batch of {kept_of(dead.payload).events:,} events that cannot be read: give "
                    "its events as a whole, a list of them, or restore the log and replay it"
                )
            given_all = list(given) if whole and isinstance(given, list | tuple) else [given]
            if not given_all or not all(isinstance(one, Mapping) for one in given_all):
                raise SchemaError(f"letter {letter} holds no object with fields; give the whole event")
            target = stream or target
            if target not in self._streams:
                raise SchemaError(f"{self._no_stream(target)}; name the stream that it belongs to", field="stream")
            if event is None and not personal:
                self._check_move(
                    dead.stream, target, [name for name in given if name not in {*remove, *(changes or ())}]
                )
            corrected = [
                {name: value for name, value in one.items() if name not in remove} | dict(changes or {})
                for one in given_all
            ]
            misfits: list[Refit] = []
            blocks = self._fitting([(place, target, one) for one in corrected], misfits, personal)
            if misfits:
                at_fault = f'field "{misfits[0].field}": ' if misfits[0].field else ""
                raise SchemaError(f"{at_fault}{misfits[0].reason}; nothing was published", field=misfits[0].field)
            self._publish("fix", blocks, who, why)
        self._tell(who, "fix", letter, {"stream": target, "changed": sorted({*(changes or ()), *remove}), "why": why})
        return self.get(letter, personal=personal)

    def _check_move(self, stream: str, target: str, names: Sequence[str]) -> None:
        """Raise SchemaError if values of a letter would be shown in the target that are hidden in its own stream."""
        told = self._masker.told_by(stream, target, names)
        if told:
            raise SchemaError(
                f'"{told[0]}" of {stream} may be personal, and is not in {target}: set or remove it, or have somebody '
                "do this who may see personal values",
                field=told[0],
            )

    def drop(self, chosen: Chosen, *, who: str, why: str, personal: bool = False) -> int:
        """Mark the chosen letters as dropped: a replay leaves them out from now on; they stay where they are.

        Returns how many. Raises SchemaError without a reason, or if nothing narrows the choice down.
        """
        if not why.strip():
            raise SchemaError("say why they are dropped", field="why")
        if not chosen.names_some:
            raise SchemaError("say which letters: by id, stream, field, reason or time of arrival")
        chosen, total = msgspec.structs.replace(chosen, state="open"), 0
        with self._lock():
            self._catch_up()
            for batch in _in_batches(self._chosen(chosen, personal), self._at_once):
                places = [_place_of(letter) for letter in batch]
                self._record(Action(_FORMAT, "drop", self._clock.now_us(), who, why, dropped=places))
                total += len(places)
        if total:
            self._tell(who, "drop", in_words(chosen), {"dropped": total, "why": why})
        return total

    # -- inside -----------------------------------------------------------------------------------------------------

    def _topics(self) -> list[tuple[EventLog, str]]:
        found = [(self._features, DEAD_LETTERS)] if DEAD_LETTERS in self._features.topics() else []
        return found + ([(self._raw, UNKNOWN_TOPIC)] if UNKNOWN_TOPIC in self._raw.topics() else [])

    def _all(self) -> Iterator[DeadLetter]:
        for log, topic in self._topics():
            at = log.begin(topic, 0)
            while batches := log.read(topic, 0, at, _READ):
                for batch in batches:
                    if topic == DEAD_LETTERS:
                        yield from decode_dead_letters(batch.payload)
                        continue
                    for bad in decode_block(batch.payload, _NO_FIELDS, count=batch.count).malformed:
                        if bad.reason == WITH_BATCH:
                            continue
                        offset = batch.base + bad.row
                        yield DeadLetter(topic, 0, offset, bad.field, bad.reason, batch.arrival_us, bad.payload)
                at = batches[-1].end

    def _chosen(self, chosen: Chosen, personal: bool) -> Iterator[DeadLetter]:
        """The letters themselves; what may not be seen does not help to choose either."""
        wanted = {place_of_id(letter) for letter in chosen.letters}
        for letter in self._all():
            place = _place_of(letter)
            if wanted:
                if place not in wanted:
                    continue
                wanted.discard(place)
            seen = letter if personal or chosen.reason is None else self._masker.letter(letter)
            if chosen.holds(seen) and chosen.state in ("all", self._state(place)):
                yield letter
            if chosen.letters and not wanted:
                return
        if wanted:
            raise _no_letter(letter_id(min(wanted)))

    def _one(self, letter: str) -> DeadLetter:
        return next(self._chosen(Chosen((letter,), state="all"), personal=True))

    def _state(self, place: Place) -> str:
        found = self._marks.get(place)
        return "open" if found is None else KINDS[found[0].kind]

    def _may_publish(self, letter: DeadLetter, *, named: bool) -> bool:
        state = self._state(_place_of(letter))
        return state == "open" or (named and state == "dropped")

    def _letter(self, dead: DeadLetter, *, personal: bool) -> Letter:
        dead = dead if personal else self._masker.letter(dead)
        place = _place_of(dead)
        found = self._marks.get(place)
        mark = None
        if found is not None:
            action = found[0]
            mark = Mark(KINDS[action.kind], to_iso(action.at_us), action.who, action.why)
        return Letter(
            letter_id(place), *place, dead.field, dead.reason, to_iso(dead.arrival_us), dead.payload.decode(),
            self._state(place), mark,
        )  # fmt: skip

    def _stream_of(self, letter: DeadLetter) -> tuple[str, Any]:
        """Where a letter's event belongs, and what was sent as fields."""
        try:
            event = msgspec.json.decode(letter.payload)
        except msgspec.DecodeError:
            event = letter.payload.decode(errors="backslashreplace")
        if letter.stream == UNKNOWN_TOPIC and isinstance(event, dict):
            name = event.pop("stream", None)
            return (name if isinstance(name, str) else UNKNOWN_TOPIC), event
        return letter.stream, event

    def _add_batch(self, letter: DeadLetter, blocks: dict[str, EventBlock], misfits: list[Refit]) -> None:
        """The events of a letter that is a whole batch, if its bytes can be read today, or were restored in the log.

        What was malformed among them comes along, and becomes a letter of its own.
        """
        place, name = _place_of(letter), letter.stream
        if name not in self._streams:
            misfits.append(Refit(letter_id(place), "stream", self._no_stream(name)))
            return
        kept, why = kept_of(letter.payload), letter.reason
        for payload in (self._in_log(place, kept.events), None if kept.spoilt else kept.sent):
            if payload is None:
                continue
            block = decode_block(payload, self._streams[name].schema, count=kept.events)
            if not (block.malformed and is_whole_batch(block.malformed[0].reason)):
                block.columns[MENDS] = column_of(DType.STRING, [letter_id(place)] * block.n)
                blocks[name] = concat_blocks([blocks[name], block]) if name in blocks else block
                return
            why = block.malformed[0].reason
        misfits.append(Refit(letter_id(place), "", f"{why}; restore the log and replay it, or give its events to fix"))

    def _in_log(self, place: Place, count: int) -> bytes | None:
        """The batch of so many events as it stands at a place of the log today; None if there is none."""
        topic, partition, offset = place
        if not self._raw.begin(topic, partition) <= offset < self._raw.end(topic, partition):
            return None
        batch = self._raw.read(topic, partition, offset, 1)[0]
        return batch.payload if (batch.base, batch.count) == (offset, count) else None

    def _event_of(self, letter: DeadLetter) -> tuple[str, Any, str | None]:
        """Stream and fields of a letter's event; the third says why it has no stream that is declared today."""
        stream, event = self._stream_of(letter)
        return stream, event, None if stream in self._streams else self._no_stream(stream)

    def _no_stream(self, name: str) -> str:
        if name == UNKNOWN_TOPIC:
            return "the event names no stream"
        return f'there is no stream "{name}"; declared are {", ".join(sorted(self._streams)) or "none"}'

    def _fitting(
        self, events: Sequence[tuple[Place, str, Any]], misfits: list[Refit], personal: bool
    ) -> dict[str, EventBlock]:
        """Blocks by stream of the events that would count now; what does not fit is added to `misfits`."""
        by_stream: dict[str, list[tuple[Place, Any]]] = {}
        for place, name, event in events:
            by_stream.setdefault(name, []).append((place, event))
        blocks: dict[str, EventBlock] = {}
        now = self._clock.now_us()
        for name, rows in by_stream.items():
            stream = self._streams[name]
            block = self._publisher.encode(name, [event for _, event in rows])
            fits = np.ones(block.n, np.bool_)
            for bad in block.malformed:
                fits[bad.row] = False
                reason = bad.reason if personal else self._masker.reason(name, bad.field, bad.reason)
                misfits.append(Refit(letter_id(rows[bad.row][0]), bad.field, reason))
            times = block.columns[stream.schema.time_field or ""].values
            for row in np.flatnonzero(fits & (times > now + stream.future_us)).tolist():
                fits[row] = False
                at, early = to_iso(int(times[row])), format_duration(stream.future_us)
                field, reason = stream.schema.time_field or "", f"event time {at} lies more than {early} ahead"
                reason = reason if personal else self._masker.reason(name, field, reason)
                misfits.append(Refit(letter_id(rows[row][0]), field, reason))
            kept = np.flatnonzero(fits)
            if len(kept):
                columns: dict[str, Column] = {key: column.take(kept) for key, column in block.columns.items()}
                columns[MENDS] = column_of(DType.STRING, [letter_id(rows[row][0]) for row in kept.tolist()])
                blocks[name] = EventBlock(len(kept), columns)
        return blocks

    def _publish(self, kind: str, blocks: Mapping[str, EventBlock], who: str, why: str) -> None:
        appends = [append for name, block in blocks.items() for append in self._publisher.prepare(name, block)]
        spans = []
        for append in appends:
            # Others may publish meanwhile, so the events stand here or later.
            begin = self._raw.end(append.topic, append.partition)
            mended = [place_of_id(name) for name in dict.fromkeys(_mended(append)) if name is not None]
            spans.append(Span(append.topic, append.partition, begin, mended))
        action = Action(_FORMAT, kind, self._clock.now_us(), who, why, spans, done=False)
        self._record(action)
        self._raw.append(appends)
        self._record(msgspec.structs.replace(action, done=True))

    def _record(self, action: Action) -> None:
        self._raw.create(ACTIONS)
        self._raw.append([Append(ACTIONS, 0, msgspec.msgpack.encode(action))])
        self._refresh()

    def _look(self) -> None:
        """Take over what was done since; an announcement that nobody is at any more is settled."""
        self._refresh()
        if self._announced is not None:
            with suppress(Busy), self._lock():
                self._catch_up()

    def _catch_up(self) -> None:
        """Take over what was done since and settle what was announced and cut off; the caller holds the lock."""
        self._refresh()
        cut_off = self._announced
        if cut_off is not None:
            spans = [msgspec.structs.replace(span, letters=self._arrived(span)) for span in cut_off.spans]
            self._record(msgspec.structs.replace(cut_off, spans=spans, done=True))

    def _arrived(self, span: Span) -> list[Place]:
        """Those letters of a span whose new events are in the log."""
        missing = {letter_id(place): place for place in span.letters}
        found = []
        at = max(span.begin, self._raw.begin(span.stream, span.partition))
        while missing and (batches := self._raw.read(span.stream, span.partition, at, _READ)):
            for batch in batches:
                found += [missing.pop(name) for name in _mended(batch) if name is not None and name in missing]
            at = batches[-1].end
        return found

    def _refresh(self) -> None:
        """Take over the actions that were added since, by whomever."""
        if ACTIONS not in self._raw.topics():
            return
        while batches := self._raw.read(ACTIONS, 0, self._seen, _READ):
            for batch in batches:
                action = msgspec.msgpack.decode(batch.payload, type=Action)
                if not action.done:
                    self._announced = action
                    continue
                if action.kind != "drop":
                    self._announced = None
                for span in action.spans:
                    self._marks.update(dict.fromkeys(span.letters, (action, span)))
                self._marks.update(dict.fromkeys(action.dropped, (action, None)))
            self._seen = batches[-1].end

    def _published(self, letter: str, span: Span) -> str | None:
        """Where the event that mends a letter stands; None if the log does not hold it any more."""
        at = max(span.begin, self._raw.begin(span.stream, span.partition))
        while batches := self._raw.read(span.stream, span.partition, at, 1):
            names = _mended(batches[0])
            if letter in names:
                return letter_id((span.stream, span.partition, batches[0].base + names.index(letter)))
            at = batches[-1].end
        return None

    def _tell(self, who: str, what: str, which: str, detail: dict[str, Any]) -> None:
        if self._acted is not None:
            self._acted(who, f"dead letter {what}", which, detail)


def _mended(batch: LogBatch | Append) -> list[str | None]:
    """The letter that each row of a block mends; None for ordinary events."""
    return decode_block(batch.payload, _MENDED, count=batch.count).columns[MENDS].to_pylist()


def _place_of(letter: DeadLetter) -> Place:
    return letter.stream, letter.partition, letter.offset


def _no_letter(letter: str) -> NotFound:
    return NotFound(f"there is no dead letter {letter}; list them with: headrace dead list --state all")


def _in_batches(letters: Iterable[DeadLetter], size: int) -> Iterator[list[DeadLetter]]:
    batch: list[DeadLetter] = []
    for letter in letters:
        batch.append(letter)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
