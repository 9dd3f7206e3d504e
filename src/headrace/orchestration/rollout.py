"""How a version comes to answer: at once, or through the declared steps, as a shadow, as a canary, as the champion.

A rollout is a line in the catalog: which version, on which step since when, and in whose place. Nothing runs meanwhile;
`advance` looks at the clock, so it goes on after any restart. It stops, and takes its step back, where served values
were found to differ since the step began, and it is over where people move the aliases themselves.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.catalog.catalog import Catalog
from headrace.core.time import format_duration
from headrace.features.plan import ModelPlan
from headrace.registry.base import CANARY, CHAMPION, SHADOW, AliasChange, ModelRegistry
from headrace.serving.split import Split, write_split

_SETTING = "rollout "


class RolloutState(msgspec.Struct, frozen=True):
    """A version on its way: `step` counts from 0, `since_us` is when it began, `champion` is who answered then."""

    version: int
    champion: int
    step: int
    since_us: int
    who: str
    why: str


class Rollout:
    """Moves the aliases of one model that decide who answers; each move is kept with who and why."""

    def __init__(self, model: ModelPlan, registry: ModelRegistry, catalog: Catalog) -> None:
        self._model = model
        self._registry = registry
        self._catalog = catalog
        self._steps = () if model.promote is None else model.promote.steps

    @property
    def state(self) -> RolloutState | None:
        """Where the version on its way is; None if there is none."""
        stored = self._catalog.setting(_SETTING + self._model.name)
        return None if stored is None else msgspec.convert(stored, RolloutState)

    def begin(self, number: int, *, who: str, why: str) -> AliasChange:
        """Put a version on the first declared step; without steps, or without a champion, it becomes the champion."""
        champion = self._registry.alias(self._model.name, CHAMPION)
        if not self._steps or champion in (None, number):
            return self.champion(number, who=who, why=why)
        self._end("another version is rolled out", who)
        assert champion is not None
        return self._step(RolloutState(number, champion, 0, 0, who, why))

    def champion(self, number: int, *, who: str, why: str) -> AliasChange:
        """Let a version answer everything; it is no canary and no shadow any more, and no rollout is under way."""
        name = self._model.name
        change = self._registry.set_alias(name, CHAMPION, number, who=who, why=why)
        for alias in (CANARY, SHADOW):
            if self._registry.alias(name, alias) == number:
                self._registry.set_alias(name, alias, None, who=who, why=f"version {number} is the champion")
        self._forget()
        return change

    def shadow(self, number: int | None, *, who: str, why: str) -> AliasChange:
        """Let a version score beside the champion without effect; None takes it back."""
        self._forget()
        return self._registry.set_alias(self._model.name, SHADOW, number, who=who, why=why)

    def canary(self, split: Split, *, who: str, why: str) -> AliasChange:
        """Let a version answer a share of the requests."""
        self._forget()
        return self._canary(split, who, why)

    def take_back(self, *, who: str, why: str) -> AliasChange | None:
        """Let the champion answer everything again; None if no canary answers."""
        if self._registry.alias(self._model.name, CANARY) is None:
            return None
        self._forget()
        return self._registry.set_alias(self._model.name, CANARY, None, who=who, why=why)

    def advance(self, now_us: int) -> dict[str, Any] | None:
        """Go to the next step if the time of this one is over; returns what was done, if anything."""
        state, name = self.state, self._model.name
        if state is None:
            return None
        if state.step >= len(self._steps) or self._registry.alias(name, CHAMPION) != state.champion:
            self._forget()
            return {"version": state.version, "stopped": "the champion or the declared steps have changed"}
        alias, told = self._steps[state.step]
        if self._registry.alias(name, alias) != state.version:
            self._forget()
            return {"version": state.version, "stopped": f"it is no {alias} any more"}
        alerts = self._catalog.alerts("skew", name, open_only=True, limit=1)
        if alerts and alerts[0].at_us >= state.since_us:
            reason = "values that were served differ when they are recomputed"
            self._end(reason, "loop")
            return {"version": state.version, "stopped": reason}
        lasts_us = told if alias == SHADOW else told[1]
        if now_us < state.since_us + lasts_us:
            return None
        why = f"{state.why}; {format_duration(lasts_us)} as {alias}"
        following = msgspec.structs.replace(state, step=state.step + 1, why=why)
        if following.step == len(self._steps):
            self.champion(state.version, who=state.who, why=why)
            return {"version": state.version, "alias": CHAMPION}
        change = self._step(following)
        if self._steps[following.step][0] != alias:
            self._registry.set_alias(name, alias, None, who=state.who, why=f"version {state.version} is {change.alias}")
        return {"version": state.version, "alias": change.alias}

    def _step(self, state: RolloutState) -> AliasChange:
        alias, told = self._steps[state.step]
        if alias == SHADOW:
            change = self._registry.set_alias(self._model.name, SHADOW, state.version, who=state.who, why=state.why)
        else:
            change = self._canary(Split(state.version, told[0]), state.who, state.why)
        stored = msgspec.structs.replace(state, since_us=change.at_us)
        self._catalog.set_setting(_SETTING + self._model.name, msgspec.to_builtins(stored))
        return change

    def _canary(self, split: Split, who: str, why: str) -> AliasChange:
        # The split counts only while the alias names its version: killed between the two, the champion answers all.
        write_split(self._catalog.set_setting, self._model.name, split)
        by = "" if split.by is None else f" by {split.by}"
        return self._registry.set_alias(
            self._model.name, CANARY, split.number, who=who, why=f"{why} ({split.share:.4g} of requests{by})"
        )

    def _end(self, why: str, who: str) -> None:
        """Take the step of the version on its way back."""
        state, name = self.state, self._model.name
        if state is not None and state.step < len(self._steps):
            alias = self._steps[state.step][0]
            if self._registry.alias(name, alias) == state.version:
                self._registry.set_alias(name, alias, None, who=who, why=why)
        self._forget()

    def _forget(self) -> None:
        if self.state is not None:
            self._catalog.set_setting(_SETTING + self._model.name, None)
