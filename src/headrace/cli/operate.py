"""Commands that run the platform."""

from __future__ import annotations

import os
import time

import click

from headrace.app.heartbeats import EVERY_LAYER
from headrace.cli.common import REFUSED, Session, command, progress


def register(group: click.Group) -> None:
    """Add the commands of this module."""

    @command(group, "up", "headrace up\nheadrace up --port 9000 --project examples/flights")
    @click.option("--host", metavar="ADDRESS", help="Where the API listens (127.0.0.1).")
    @click.option("--port", type=int, help="Port of the API (8321); 0 takes any free one.")
    def up(session: Session, host: str | None, port: int | None) -> None:
        """Run all layers on this machine and restart what dies, until Ctrl-C.

        Definitions are applied if none were before; if they changed since, apply them first.
        """
        from headrace.app.access import check_address
        from headrace.app.beside import layer_interpreter, take_over
        from headrace.app.locks import FolderLock
        from headrace.app.supervisor import Supervisor

        project = session.open(host=host, port=port)
        check_address(project.parts)
        with FolderLock(project.settings.state, "up"):
            project.ensure_applied()
            take_over(project.parts)
        given = {"HEADRACE_HOST": host, "HEADRACE_PORT": None if port is None else str(port)}
        environment = {name: value for name, value in given.items() if value is not None}
        project.close()

        def say(line: str) -> None:
            session.say(line, event=line)

        say(f"project {project.settings.folder}, state in {project.settings.state}")
        settings = project.settings
        Supervisor(
            settings, say, environment, interpreter=lambda: layer_interpreter(settings, beside=False)
        ).run()  # fmt: skip

    @command(group, "run", "headrace run compute\nheadrace run ingest --once\nheadrace run serve --port 9000")
    @click.argument("layer", type=click.Choice(EVERY_LAYER))
    @click.option("--once", is_flag=True, help="Stop when nothing is waiting.")
    @click.option("--host", metavar="ADDRESS", help="Where serve listens (127.0.0.1).")
    @click.option("--port", type=int, help="Port on which serve listens (8321); 0 takes any free one.")
    @click.option("--beside", is_flag=True, help="Of the side that runs beside the served one (compute, ingest).")
    @click.option("--parent", type=int, hidden=True, help="Stop when this process is gone.")
    def run(
        session: Session, layer: str, once: bool, host: str | None, port: int | None, beside: bool, parent: int | None
    ) -> None:
        """Run one layer as this process, until SIGTERM; each may be stopped and killed without the others.

        compute: events to features. ingest: features to the stores. serve: the HTTP API. schedule: batch tables,
        scheduled groups, truth, monitors, retraining. copy: events of other systems to raw topics, where there
        are any.
        """
        from headrace.app.services import run_layer, until_reached

        project = session.open(host=host, port=port)
        if once:
            project.ensure_applied()
        else:
            until_reached(project.ensure_applied, lambda reason: session.say(reason, layer=layer, reason=reason))
        if beside:
            from headrace.app.beside import beside_of

            with beside_of(project.parts) as parts:
                run_layer(parts, layer, once=once, parent=parent)
        else:
            run_layer(project.parts, layer, once=once, parent=parent)
        session.say("", layer=layer, pid=os.getpid())

    @command(group, "status", "headrace status\nheadrace status --json")
    def status(session: Session) -> None:
        """Show what runs, how far it is, dead letters, models, runs and open alerts."""
        found = session.open().status()
        session.say(str(found), **found.to_dict())

    @command(
        group,
        "reconcile",
        "headrace reconcile\nheadrace reconcile --dry-run\n"
        'headrace reconcile --accept-loss transfer --why "disk of May, no copy"',
    )
    @click.option("--dry-run", is_flag=True, help="Only say what differs.")
    @click.option("--accept-loss", metavar="NAME", help="What the archive of this stream or table has lost is lost.")
    @click.option("--why", default="", help="Why a loss is accepted; kept in the log of changes with the offsets.")
    def reconcile(session: Session, dry_run: bool, accept_loss: str | None, why: str) -> int:
        """Compare the archive with the log, and all records of the online store with both, bit for bit; repair what
        differs, on either side.

        Nothing has to stop for it. `headrace run schedule` does a share of it every few minutes. Ends with 1 if
        something differs that is not repaired.

        Where rows of the archive are lost and nobody has a copy, --accept-loss says so, for good: from then on history
        and the online store are without them.
        """
        from headrace.app.reconciling import accept_loss as accept
        from headrace.app.reconciling import reconcile_all
        from headrace.app.users import os_user

        if accept_loss is not None and dry_run:
            raise click.UsageError("--accept-loss changes something; leave --dry-run out")
        project = session.open()
        project.ensure_applied()
        lost = [] if accept_loss is None else accept(project.parts, accept_loss, who=os_user(), why=why)
        with progress("comparing") as shown:
            found = reconcile_all(
                project.parts, repair=not dry_run, progress=lambda done, of: shown.update(done, of, f"{done} of {of}")
            )
        given_up = sum(high - low for _, low, high in lost)
        told = f"{given_up:,} rows of {accept_loss} are given up\n" if lost else ""
        session.say(f"{told}{found}", **found.to_dict(), given_up=given_up)
        return REFUSED if found.unrepaired else 0

    @command(group, "rebuild", "headrace rebuild online\nheadrace rebuild online --replace")
    @click.argument("store", type=click.Choice(["online"]))
    @click.option("--replace", is_flag=True, help="Throw away what the store holds.")
    def rebuild(session: Session, store: str, replace: bool) -> None:
        """Make the online store anew from archive and log, when it is lost or not to be trusted.

        Compute and ingestion must not run meanwhile. Killed, it is run again with --replace.
        """
        from headrace.app.reconciling import rebuild_online

        project = session.open()
        project.ensure_applied()
        began = time.monotonic()
        with progress("making records") as shown:
            rebuild_online(
                project.parts,
                replace=replace,
                progress=lambda done, of: shown.update(done, max(of, 1), f"{done:,} of {of:,}"),
            )
        records, seconds = project.parts.online.count(), time.monotonic() - began
        session.say(f"{records:,} records in {seconds:.1f} s", records=records, seconds=seconds)

    @command(group, "doctor", "headrace doctor")
    def doctor(session: Session) -> int:
        """Look for what could keep this project from working, and say what to do about it."""
        from headrace.app.doctor import examine

        findings = examine(session.folder, session.env)
        lines = [f"{'ok ' if f.ok else 'BAD'} {f.what:<22} {f.found}{'' if f.ok else f'; {f.cure}'}" for f in findings]
        bad = [finding for finding in findings if not finding.ok]
        lines.append("all is well" if not bad else f"{len(bad)} of {len(findings)} need attention")
        session.say("\n".join(lines), ok=not bad, findings=findings)
        return REFUSED if bad else 0
