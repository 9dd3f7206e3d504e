"""Commands of dead letters: list, show, fix, replay, drop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from headrace.cli.common import REFUSED, Session, command, progress
from headrace.cli.values import read_fields

if TYPE_CHECKING:
    from headrace.app.letters import ChosenLetters, Letter
    from headrace.app.project import Project

F = TypeVar("F", bound=Callable[..., Any])


_personal = click.option("--personal", is_flag=True, help="Show values of personal fields, too.")


def _choice(function: F) -> F:
    """Options that say which letters are meant."""
    for option in (
        click.option("--until", metavar="TIME", help="That arrived before this time."),
        click.option("--since", metavar="TIME", help="That arrived from this time on."),
        click.option("--reason", metavar="TEXT", help="Whose reason has this text in it."),
        click.option("--field", help="With this field at fault."),
        click.option("--stream", help="Of this stream; _unknown for events of no declared one."),
        _personal,
    ):
        function = option(function)
    return function


def register(group: click.Group) -> None:
    """Add the commands of this module."""

    @group.group("dead")
    def dead() -> None:
        """Dead letters: events that did not fit. List them, mend them, publish them again."""

    @command(dead, "list", "headrace dead list\nheadrace dead list --stream transfer --field amount --json")
    @_choice
    @click.option("--state", type=click.Choice(["open", "replayed", "fixed", "dropped", "all"]), default="open",
                  show_default=True, help="What became of them.")  # fmt: skip
    @click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Letters to show.")
    def list_(session: Session, limit: int, **which: Any) -> None:
        """List dead letters, the newest first, and count them by stream, field and reason."""
        found = session.open().dead_letters(limit=limit, **which)
        lines = [f"{one.count:>9,}  {one.stream}: {_at_fault(one.field)}: {one.reason}" for one in found.counts]
        lines += ["", *(_line(letter) for letter in found)] if lines else []
        more = len(found) - len(list(found))
        lines += [f"... and {more:,} more; narrow it down, or ask for more with --limit"] if more > 0 else []
        session.say("\n".join(lines) or "no dead letters", total=len(found), counts=found.counts, letters=list(found))

    @command(dead, "show", "headrace dead show transfer/0/17")
    @click.argument("letter")
    @_personal
    def show(session: Session, letter: str, personal: bool) -> None:
        """Show one LETTER (STREAM/PARTITION/OFFSET): what was sent, what is wrong with it, what became of it."""
        found = session.open().dead_letters(limit=1, personal=personal).get(letter)
        session.say(_whole(found), **msgspec.to_builtins(found))

    @command(
        dead,
        "fix",
        "headrace dead fix transfer/0/17 amount=12.5\nheadrace dead fix transfer/0/18 --remove colour\n"
        "headrace dead fix _unknown/0/3 --stream transfer",
    )
    @click.argument("letter")
    @click.argument("change", nargs=-1, metavar="FIELD=VALUE...")
    @click.option("--remove", multiple=True, metavar="FIELD", help="Leave out a field that was sent; may be repeated.")
    @click.option(
        "--event",
        type=click.File("rb"),
        help="The whole corrected event, a JSON object; of a batch a list (- is stdin).",
    )
    @click.option("--stream", help="The stream that it belongs to, if it is another one.")
    @click.option("--why", default="", help="The reason, kept with the letter.")
    def fix(
        session: Session, letter: str, change: tuple[str, ...], remove: tuple[str, ...], event: Any, stream: str | None,
        why: str,
    ) -> None:  # fmt: skip
        """Publish the corrected event of a LETTER; it names the letter that it mends, which stays as it is."""
        project = session.open()
        letters = project.dead_letters(limit=1)
        whole = None if event is None else _object(event.read())
        changes = _changes(project, letters, letter, change, stream)
        fixed = letters.fix(letter, changes, remove=remove, event=whole, stream=stream, why=why)
        assert fixed.mark is not None
        session.say(f"{letter} was published anew as {fixed.mark.published}", **msgspec.to_builtins(fixed))

    @command(
        dead,
        "replay",
        "headrace dead replay --dry-run\nheadrace dead replay --stream transfer --field channel\n"
        "headrace dead replay transfer/0/17 transfer/0/18",
    )
    @click.argument("letters", nargs=-1)
    @_choice
    @click.option("--dry-run", is_flag=True, help="Publish nothing; say what would fit.")
    @click.option("--why", default="", help="The reason, kept with the letters.")
    def replay(session: Session, letters: tuple[str, ...], dry_run: bool, why: str, **which: Any) -> int:
        """Publish again the open dead letters that fit the definitions of today, each once for good.

        Without LETTERS and options, all of them. What does not fit stays open. Letters that are named may also be
        dropped ones.
        """
        chosen = session.open().dead_letters(letters=letters, limit=1, **which)
        with progress("publishing") as shown:
            done = chosen.replay(why=why, dry_run=dry_run, progress=lambda n: shown.update(n, len(chosen), f"{n:,}"))
        verb = "would be published again" if dry_run else "published again"
        lines = [f"{done.published:,} {verb}, {done.left:,} do not fit"]
        lines += [f"  {one.id}: {_at_fault(one.field)}: {one.reason}" for one in done.refused]
        session.say("\n".join(lines), dry_run=dry_run, **msgspec.to_builtins(done))
        return REFUSED if done.left and not done.published else 0

    @command(dead, "drop", 'headrace dead drop --stream transfer --reason infinite --why "test traffic"')
    @click.argument("letters", nargs=-1)
    @_choice
    @click.option("--why", required=True, help="The reason, kept with the letters.")
    def drop(session: Session, letters: tuple[str, ...], why: str, **which: Any) -> None:
        """Mark open dead letters as dropped: a replay leaves them out. They are not erased."""
        dropped = session.open().dead_letters(letters=letters, limit=1, **which).drop(why=why)
        session.say(f"{dropped:,} dropped", dropped=dropped)


def _changes(
    project: Project, letters: ChosenLetters, letter: str, change: tuple[str, ...], stream: str | None
) -> dict[str, Any]:
    if not change:
        return {}
    name = stream or letters.get(letter).stream
    if name not in project.definition_plan.streams:
        raise click.UsageError(f'say which --stream the event belongs to; "{name}" is not declared')
    return read_fields(project.definition_plan.streams[name].schema.fields, change)


def _object(text: bytes) -> dict[str, Any] | list[dict[str, Any]]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any] | list[dict[str, Any]])
    except msgspec.DecodeError as error:
        raise click.UsageError(f"--event is no JSON object, and no list of them: {error}") from None


def _at_fault(field: str) -> str:
    return field or "whole event"


def _line(letter: Letter) -> str:
    state = "" if letter.mark is None else f" [{letter.state} by {letter.mark.who}]"
    return f"{letter.id:<28} {letter.arrival}  {_at_fault(letter.field)}: {letter.reason}{state}"


def _whole(letter: Letter) -> str:
    lines = [f"letter   {letter.id}", f"arrived  {letter.arrival}"]
    lines += [f"field    {_at_fault(letter.field)}", f"reason   {letter.reason}", f"state    {letter.state}"]
    if letter.mark is not None:
        why = f": {letter.mark.why}" if letter.mark.why else ""
        where = f", now {letter.mark.published}" if letter.mark.published else ""
        lines.append(f"         by {letter.mark.who} at {letter.mark.at}{where}{why}")
    return "\n".join([*lines, f"sent     {letter.payload}"])
