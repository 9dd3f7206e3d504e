"""Commands of a run beside: start, status, compare, switch, back, stop, drop."""

from __future__ import annotations

import sys

import click
import msgspec

from headrace.cli.common import REFUSED, Session, command, progress


def register(group: click.Group) -> None:
    """Add the commands of this module."""

    @group.group("beside")
    def beside() -> None:
        """A new version beside the served one: on the same events, compared, then served, and back."""

    @command(
        beside, "start",
        "/opt/headrace-next/bin/headrace beside start\nheadrace beside start --name green --from-beginning",
    )  # fmt: skip
    @click.option("--name", default="green", show_default=True, help="What to call it.")
    @click.option("--python", metavar="PATH", help="Python of the environment with the new version (this one).")
    @click.option("--from-beginning", is_flag=True, help="Compute every event of the log, not from the archive on.")
    @click.option("--fill-only", is_flag=True, help="Only fill its store; run the layers with: headrace run --beside.")
    def start(session: Session, name: str, python: str | None, from_beginning: bool, fill_only: bool) -> None:
        """Run compute and ingest of a second side on the same events, until Ctrl-C; go on with it if it is there.

        Its store is made from archive and log first. Nothing that runs has to stop.
        """
        from headrace.app.beside import layer_interpreter
        from headrace.app.supervisor import Supervisor

        project = session.open()
        settings = project.settings

        def say(line: str) -> None:
            session.say(line, event=line)

        with progress("making records") as shown:
            project.beside.start(
                name, python=python, from_beginning=from_beginning, follow=False, said=say,
                progress=lambda done, of: shown.update(done, max(of, 1), f"{done:,} of {of:,}"),
            )  # fmt: skip
        project.close()
        if not fill_only:
            Supervisor(
                settings, say, beside=True, interpreter=lambda: layer_interpreter(settings, beside=True)
            ).run()  # fmt: skip

    @command(beside, "fill", "headrace beside fill", hidden=True)
    @click.option("--from-beginning", is_flag=True)
    def fill(session: Session, from_beginning: bool) -> None:
        """Fill the store of a side that was begun; run by its own interpreter."""
        from headrace.app.beside import fill_side

        project = session.open()
        project.ensure_applied()
        side = fill_side(project.parts, from_beginning=from_beginning)
        session.say(f"side {side.name} goes its own way from commit {side.fork:,} on", side=side.name, fork=side.fork)

    @command(beside, "catch-up", "headrace beside catch-up", hidden=True)
    def catch_up(session: Session) -> None:
        """Bring the side beside up to the served one; run by its own interpreter."""
        from headrace.app.beside import catch_up as bring

        project = session.open()
        project.ensure_applied()
        end = bring(project.parts)
        session.say(f"commit {end:,}", commit=end)

    @command(beside, "answer", "headrace beside answer", hidden=True)
    def answer(session: Session) -> None:
        """Say what this version reads of a side's records, to a comparison that asks on stdin."""
        from headrace.app.comparing import answer_all

        project = session.open()
        project.ensure_applied()
        answer_all(project.parts, sys.stdin.buffer, sys.stdout.buffer)

    @command(beside, "erase", "headrace beside erase", hidden=True)
    def erase(session: Session) -> None:
        """Do what an erasure asks on stdin of the side beside; run by its own interpreter."""
        from headrace.app.beside_erasing import erase_asked

        project = session.open()
        project.ensure_applied()
        done = erase_asked(project.parts, sys.stdin.buffer.read())
        session.say("", places=done.places, repaired=done.repaired, remains=done.remains)

    @command(beside, "status", "headrace beside status")
    def status(session: Session) -> None:
        """Show the sides and how far they are."""
        found = session.open().beside.status()
        sides = [side for side in (found.served, found.beside) if side is not None]
        session.say(str(found), sides=sides, follows=found.follows)

    @command(beside, "switch", "headrace beside switch")
    def switch(session: Session) -> None:
        """Serve the side that runs beside, from one commit on; the other runs beside it from then on."""
        done = session.open().beside.switch()
        session.say(str(done), **msgspec.to_builtins(done))

    @command(beside, "back", "headrace beside back")
    def back(session: Session) -> None:
        """Serve the side again that was served before."""
        done = session.open().beside.back()
        session.say(str(done), **msgspec.to_builtins(done))

    @command(beside, "stop", "headrace beside stop")
    def stop(session: Session) -> None:
        """Stop the layers of the side that runs beside; start goes on with it."""
        found = session.open().beside.stop()
        session.say(str(found), sides=[side for side in (found.served, found.beside) if side is not None])

    @command(beside, "drop", "headrace beside drop")
    def drop(session: Session) -> None:
        """Remove the side that runs beside the served one."""
        run = session.open().beside
        before = run.status().beside
        run.drop()
        name = "" if before is None else before.name
        session.say(f"side {name} is removed", dropped=name)

    @command(beside, "compare", "headrace beside compare\nheadrace beside compare --sample 0 --json")
    @click.option(
        "--sample", type=click.IntRange(0), default=1_000, show_default=True,
        help="Entities to compare of each group and table; 0: all.",
    )  # fmt: skip
    def compare(session: Session, sample: int) -> int:
        """Compare every feature of both sides at equal positions, value by value; ends with 1 if one differs."""
        found = session.open().beside.compare(sample or None)
        session.say(str(found), compared=found.compared, differing=found.differing, features=found.features)
        return REFUSED if found.differing else 0
