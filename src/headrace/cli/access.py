"""Commands of access: API keys, and the log of who changed what."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from headrace.catalog.records import SCOPES
from headrace.cli.common import Session, command
from headrace.core.time import parse_duration, to_iso


def register(group: click.Group) -> None:
    """Add the commands of this module."""

    @group.group("keys")
    def keys() -> None:
        """API keys of the HTTP service: make, list, revoke. Without any, it is open to this machine alone."""

    @command(
        keys,
        "make",
        "headrace keys make checkout --scope publish --scope score --rate 500\n"
        "headrace keys make analyst --scope read --read spend --expires 90d\nheadrace keys make prometheus",
    )
    @click.argument("name")
    @click.option(
        "--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="What it is for; may be repeated."
    )
    @click.option("--read", "reads", multiple=True, metavar="NAME",
                  help="Read only this group, table or view (may be repeated, as may --scope).")  # fmt: skip
    @click.option("--rate", type=float, metavar="N", help="Requests a second, in each service process.")
    @click.option("--burst", type=int, metavar="N", help="Requests that may come at once (the rate).")
    @click.option("--expires", metavar="DURATION", help="How long it is good for, such as 90d (for good).")
    def make(
        session: Session, name: str, scopes: tuple[str, ...], reads: tuple[str, ...], rate: float | None,
        burst: int | None, expires: str | None,
    ) -> None:  # fmt: skip
        """Make a key and show it, this once: what is kept cannot be turned back into it.

        Without --scope it may only see /metrics, /openapi.json and the page. The first key closes the service to
        whoever has none.
        """
        from headrace.app.users import os_user

        project = session.open()
        known = {*project.definition_plan.groups, *project.definition_plan.tables, *project.definition_plan.views}
        strangers = [one for one in reads if one not in known]
        if strangers:
            raise click.UsageError(
                f'there is no group, table or view "{strangers[0]}"; there are {", ".join(sorted(known))}'
            )
        if reads and "read" not in scopes:
            raise click.UsageError("--read narrows down --scope read; give that, too")
        until = None
        if expires is not None:
            try:
                until = project.clock.now_us() + parse_duration(expires)
            except ValueError as error:
                raise click.UsageError(f"--expires: {error}") from None
        key, token = project.parts.catalog.keys.make(
            name, scopes, who=os_user(), reads=reads or None, rate=rate, burst=burst, expires_us=until
        )  # fmt: skip
        session.say(
            f"{token}\nkey {name} was made; this is the only time that it is shown", key=token, id=key.id, name=name,
            scopes=key.scopes, reads=key.reads, rate=key.rate, burst=key.burst,
            expires=None if until is None else to_iso(until),
        )  # fmt: skip

    @command(keys, "list", "headrace keys list\nheadrace keys list --json")
    def list_(session: Session) -> None:
        """List all keys that were ever made, without their secrets."""
        project = session.open()
        now = project.clock.now_us()
        found = []
        for key in project.parts.catalog.keys.list():
            told = {name: getattr(key, name) for name in ("id", "name", "scopes", "reads", "rate", "burst")}
            times = {"created": key.created_us, "expires": key.expires_us, "revoked": key.revoked_us}
            found.append(
                told | {"created_by": key.created_by, "state": key.state(now)}
                | {name: None if us is None else to_iso(us) for name, us in times.items()}
            )  # fmt: skip
        lines = [_line(one) for one in found]
        session.say("\n".join(lines) or "no keys: the service is open to this machine alone", keys=found)

    @command(keys, "revoke", "headrace keys revoke checkout")
    @click.argument("name")
    def revoke(session: Session, name: str) -> None:
        """Revoke the key of that name (or id) for good; running services refuse it within a second."""
        from headrace.app.users import os_user

        key = session.open().parts.catalog.keys.revoke(name, who=os_user())
        session.say(f"key {key.name} is revoked", id=key.id, name=key.name)

    @command(
        group,
        "changes",
        "headrace changes\nheadrace changes --who checkout --since 2026-05-01\nheadrace changes --action promote",
    )
    @click.option("--who", metavar="TEXT", help="By users, keys and loops with this in their name.")
    @click.option("--action", metavar="TEXT", help="With this in it: apply, promote, keys, put, dead letter ...")
    @click.option("--since", metavar="TIME", help="From this time on.")
    @click.option("--until", metavar="TIME", help="Before this time.")
    @click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Lines to show.")
    def changes(
        session: Session, who: str | None, action: str | None, since: str | None, until: str | None, limit: int
    ) -> None:
        """Show who changed what and when, the newest first. (headrace audit recomputes predictions.)"""
        from headrace.app.times import given_us

        found = session.open().parts.catalog.changes.list(
            who=who, action=action, since_us=given_us(since, "since"), until_us=given_us(until, "until"), limit=limit
        )
        lines = [f"{to_iso(c.at_us)[:19]}Z  {c.who:<20} {c.action:<18} {c.subject}  {_said(c.detail)}" for c in found]
        session.say("\n".join(lines) or "no changes", changes=[_plain(c) for c in found])


def _line(key: dict[str, Any]) -> str:
    """A key for people."""
    told = " ".join(key["scopes"]) or "no scope"
    if key["reads"]:
        told += f" of {', '.join(key['reads'])}"
    if key["rate"]:
        told += f", {key['rate']:g}/s"
    if key["expires"]:
        told += f", until {key['expires']}"
    return f"{key['name']:<20} {key['id']} {key['state']:<8} {told}"


def _said(detail: dict[str, object]) -> str:
    given = [(name, value) for name, value in detail.items() if value not in (None, "")]
    told = [f"{name}={msgspec.json.encode(value).decode()}" for name, value in given]
    text = " ".join(told)
    return text if len(text) <= 120 else text[:117] + "..."


def _plain(change: object) -> dict[str, object]:
    values = dict(msgspec.to_builtins(change))
    return {"at": to_iso(values.pop("at_us")), **values}
