"""Commands for models: train, judge, promote, score, audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from headrace.cli.common import REFUSED, Session, command, working
from headrace.cli.values import read_fields

if TYPE_CHECKING:
    from headrace.app.project import Project
    from headrace.training.promotion import Comparison

_CONTRIBUTIONS = 10


def register(group: click.Group) -> None:
    """Add the commands of this module."""

    @command(
        group,
        "train",
        "headrace train fraud\nheadrace train fraud --until 2026-06-01\nheadrace train fraud --data fraud-june@2",
    )
    @click.argument("model")
    @click.option("--until", metavar="TIME", help="Train on what was known at this time (now).")
    @click.option("--data", metavar="NAME[@VERSION]", help="Train on this data set (headrace dataset) instead.")
    def train(session: Session, model: str, until: str | None, data: str | None) -> None:
        """Train a version on requests whose truth is known, or on a named data set, and register it.

        The champion stays.
        """
        if until is not None and data is not None:
            raise click.UsageError("a data set says itself until when; give --until or --data")
        project = session.open()
        with working(f"training {model}"):
            version = project.model(model).train(until, data=data)
        figures = "\n".join(f"  {name:<28} {value:.4f}" for name, value in sorted(version.metrics.items()))
        snapshot = version.snapshot
        session.say(
            f"{figures}\nversion {version.number} on {snapshot.rows:,} rows, {snapshot.positives:,} positive"
            f"{'' if snapshot.dataset is None else f', of {snapshot.dataset}'}\n"
            f"next: headrace evaluate {model} {version.number}",
            version=version.number, metrics=version.metrics, rows=snapshot.rows, positives=snapshot.positives,
            snapshot=snapshot,
        )  # fmt: skip

    @command(group, "evaluate", "headrace evaluate fraud\nheadrace evaluate fraud 7")
    @click.argument("model")
    @click.argument("version", type=int, required=False)
    @click.option("--until", metavar="TIME", help="Judge on truth of requests before this time (now).")
    def evaluate(session: Session, model: str, version: int | None, until: str | None) -> int:
        """Judge a version (the newest) beside the champion on truth that neither has seen; changes nothing.

        Exits with 1 if it should not be promoted.
        """
        project = session.open()
        with working(f"evaluating {model}"):
            verdict = project.model(model).evaluate(version, until=until)
        lines = [_comparison(row) for row in verdict.table]
        lines.append(f"promote: {'yes' if verdict.promote else 'no'} ({verdict.reason})")
        session.say("\n".join(lines), promote=verdict.promote, reason=verdict.reason, table=verdict.rows())
        return 0 if verdict.promote else REFUSED

    @command(
        group,
        "promote",
        'headrace promote fraud 7\nheadrace promote fraud 7 --to shadow --why "on trial"\n'
        "headrace promote fraud 7 --to canary --share 0.1 --by sender",
    )
    @click.argument("model")
    @click.argument("version", type=int)
    @click.option("--why", default="by hand", show_default=True, help="The reason, kept in the history.")
    @click.option("--to", type=click.Choice(["champion", "canary", "shadow"]), help="At once, without further steps.")
    @click.option("--share", type=float, help="Share of the requests that a canary answers (as declared, or 0.1).")
    @click.option("--by", metavar="FIELD", help="Whose value decides which requests these are (the request's id).")
    def promote(
        session: Session, model: str, version: int, why: str, to: str | None, share: float | None, by: str | None
    ) -> None:
        """Let a version answer, through the steps that the model declares, if any.

        With --to shadow it scores beside the champion without effect; with --to canary it answers a share of the
        requests, until it is promoted or taken back (headrace rollback).
        """
        handle = session.open().model(model)
        done = handle.promote(version, why=why, to=to, share=share, by=by)
        canary = handle.canary if done.alias == "canary" else None
        session.say(
            _moved(done) + ("" if canary is None else f", {_percent(canary.share)} of requests"),
            model=model, alias=done.alias, previous=done.previous, version=done.number,
            share=None if canary is None else canary.share,
        )  # fmt: skip

    @command(group, "rollback", 'headrace rollback fraud --why "alarm 17"')
    @click.argument("model")
    @click.option("--why", required=True, help="The reason, kept in the history.")
    def rollback(session: Session, model: str, why: str) -> None:
        """Take the canary back; without one, make the former champion the champion again."""
        done = session.open().model(model).rollback(why=why)
        session.say(_moved(done), model=model, alias=done.alias, previous=done.previous, version=done.number)

    @command(
        group,
        "score",
        "headrace score fraud transfer_id=x sender=u1 receiver=u2 currency=EUR amount=9.5 --explain",
    )
    @click.argument("model")
    @click.argument("request", nargs=-1, metavar="FIELD=VALUE...")
    @click.option("--explain", is_flag=True, help="Show what moved the value most.")
    @click.option("--no-log", is_flag=True, help="Keep no record of this prediction.")
    def score(session: Session, model: str, request: tuple[str, ...], explain: bool, no_log: bool) -> None:
        """Score one request with the champion. An event time that is left out is now."""
        project = session.open()
        plan = project.parts.model(model)
        fields = project.definition_plan.views[plan.view].request.fields
        answer = project.model(model).score(read_fields(fields, request), log=not no_log)
        lines = [f"{answer.value:.6f}  version {answer.version}  {answer.id}"]
        lines += [f"degraded: {', '.join(answer.degraded)}"] if answer.degraded else []
        names = {group.version: f"group {group.name}" for group in project.parts.plan.computed_groups}
        places = [*sorted(answer.position.streams.items())]
        places += [(names.get(version, version), ends) for version, ends in answer.position.groups.items()]
        lines.append("position " + ", ".join(f"{name} {ends}" for name, ends in places))
        moved = _contributions(project, model, answer) if explain else []
        lines += [f"  {name:<32} {value!s:>12}  {share:+.4f}" for name, value, share in moved]
        session.say(
            "\n".join(lines),
            id=answer.id, value=answer.value, version=answer.version, degraded=answer.degraded,
            position=answer.position, features=answer.features,
            contributions=[{"feature": n, "value": v, "contribution": c} for n, v, c in moved],
        )  # fmt: skip

    @command(group, "audit", "headrace audit p-81c2-0\nheadrace audit --model fraud")
    @click.argument("prediction", required=False)
    @click.option("--model", help="All logged predictions of this model instead of one.")
    def audit(session: Session, prediction: str | None, model: str | None) -> int:
        """Recompute a prediction's features as they were served; exits with 1 if any bit differs."""
        project = session.open()
        if prediction is not None and model is None:
            found = project.audit(prediction)
            result, text = found.audit, str(found)
        elif prediction is not None or model is None:
            raise click.UsageError("name one prediction, or --model NAME for all of a model")
        else:
            with working(f"auditing {model}"):
                result = project.model(model).audit()
            text = f"{result.rows:,} predictions, {result.in_words}"
        session.say(
            text,
            predictions=result.rows, checked=result.checked, differing=result.differing,
            examples=[
                {"prediction": d.prediction, "column": d.column, "served": d.served, "recomputed": d.recomputed}
                for d in result.examples
            ],
        )  # fmt: skip
        return REFUSED if result.differing else 0


def _moved(done: Any) -> str:
    before = "none" if done.previous is None else done.previous
    return f"{done.alias}: {before} -> {'none' if done.number is None else done.number}"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _comparison(row: Comparison) -> str:
    if row.champion is None or row.challenger is None or row.difference is None:
        return f"{row.segment or 'all':<24} {row.rows:>8,} rows, too little truth to tell"
    interval = "" if row.low is None else f" [{row.low:+.4f}, {row.high:+.4f}]"
    return (
        f"{row.segment or 'all':<24} {row.rows:>8,} rows  champion {row.champion:.4f}  "
        f"challenger {row.challenger:.4f}  difference {row.difference:+.4f}{interval}"
    )


def _contributions(project: Project, model: str, answer: Any) -> list[tuple[str, Any, float]]:
    """The features that moved the score most (in log odds), for models that can tell."""
    found = project.model(model).contributions(answer)
    ranked = sorted(found.items(), key=lambda item: -abs(item[1]))[:_CONTRIBUTIONS]
    return [(name, answer.features.get(name), share) for name, share in ranked]
