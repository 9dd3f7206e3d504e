"""Steps of a promotion: shadow, canary, champion, by the clock; stopped by alarms and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.catalog.catalog import Catalog
from headrace.core.time import US_PER_HOUR, SimulatedClock
from headrace.features.plan import PromotionPlan
from headrace.orchestration.rollout import Rollout
from headrace.registry.base import CANARY, CHAMPION, SHADOW, DataSnapshot, NewVersion
from headrace.registry.local import LocalModelRegistry
from headrace.serving.split import Split, read_split
from tests.unit.serving.views import MODEL

STEPS = ((SHADOW, US_PER_HOUR), (CANARY, (0.1, 2 * US_PER_HOUR)), (CANARY, (0.5, US_PER_HOUR)))
STEPPED = replace(MODEL, promote=PromotionPlan(US_PER_HOUR, 0.95, (), STEPS))


class Site:
    """A model with three versions, the first of them champion, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.clock = SimulatedClock(10 * US_PER_HOUR)
        self.catalog = Catalog(folder / "c.db", self.clock)
        self.registry = LocalModelRegistry(self.catalog, folder / "models")
        for _ in range(3):
            snapshot = DataSnapshot(rows=1, positives=1, since_us=0, until_us=1)
            self.registry.register(NewVersion("fraud", "v", "1", ("a",), {}, snapshot), {"m": b"1"})
        self.registry.set_alias("fraud", CHAMPION, 1, who="test", why="the first")

    @property
    def rollout(self) -> Rollout:
        """Made anew for each use, as after a restart."""
        return Rollout(STEPPED, self.registry, self.catalog)

    def after(self, hours: float) -> object:
        self.clock.advance_to(self.clock.now_us() + round(hours * US_PER_HOUR))
        return self.rollout.advance(self.clock.now_us())

    @property
    def aliases(self) -> dict[str, int | None]:
        return {alias: self.registry.alias("fraud", alias) for alias in (CHAMPION, CANARY, SHADOW)}

    @property
    def share(self) -> float | None:
        split = read_split(self.catalog.setting, "fraud")
        return None if split is None else split.share


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.catalog.close()


def test_a_version_goes_through_the_declared_steps(site: Site) -> None:
    begun = site.rollout.begin(2, who="ann", why="better")
    assert (begun.alias, begun.number, begun.who) == (SHADOW, 2, "ann")
    assert site.after(0.9) is None
    assert site.aliases == {CHAMPION: 1, CANARY: None, SHADOW: 2}
    assert site.after(0.1) == {"version": 2, "alias": CANARY}
    assert (site.aliases, site.share) == ({CHAMPION: 1, CANARY: 2, SHADOW: None}, 0.1)
    assert site.after(1.9) is None
    assert site.after(0.1) == {"version": 2, "alias": CANARY}
    assert (site.aliases, site.share) == ({CHAMPION: 1, CANARY: 2, SHADOW: None}, 0.5)
    assert site.after(1) == {"version": 2, "alias": CHAMPION}
    assert site.aliases == {CHAMPION: 2, CANARY: None, SHADOW: None}
    assert (site.after(100), site.rollout.state) == (None, None)
    why = site.registry.alias_history("fraud", CHAMPION)[-1].why
    assert why == "better; 1h as shadow; 2h as canary; 1h as canary"


def test_without_steps_or_a_champion_a_version_answers_at_once(site: Site) -> None:
    plain = Rollout(MODEL, site.registry, site.catalog)
    assert plain.begin(2, who="ann", why="better").alias == CHAMPION
    site.registry.set_alias("fraud", CHAMPION, None, who="test", why="none")
    assert site.rollout.begin(3, who="ann", why="the only one").alias == CHAMPION
    assert site.rollout.state is None


def test_values_that_differ_stop_a_rollout_and_take_its_step_back(site: Site) -> None:
    site.catalog.raise_alert("skew", "fraud", {}, "critical")
    site.clock.advance_to(site.clock.now_us() + 1)
    site.rollout.begin(2, who="ann", why="better")
    site.after(1)
    site.catalog.raise_alert("skew", "other", {}, "critical")
    assert site.after(0) is None
    site.catalog.raise_alert("skew", "fraud", {}, "critical")
    stopped = site.after(5)
    assert isinstance(stopped, dict)
    assert "differ" in stopped["stopped"]
    assert site.aliases == {CHAMPION: 1, CANARY: None, SHADOW: None}
    assert site.after(5) is None


def test_who_moves_the_aliases_by_hand_ends_the_rollout(site: Site) -> None:
    site.rollout.begin(2, who="ann", why="better")
    site.registry.set_alias("fraud", CHAMPION, 3, who="bob", why="no time")
    assert site.after(9) == {"version": 2, "stopped": "the champion or the declared steps have changed"}
    assert site.aliases == {CHAMPION: 3, CANARY: None, SHADOW: 2}
    site.rollout.begin(2, who="ann", why="again")
    site.after(1)
    taken = site.rollout.take_back(who="bob", why="alarm")
    assert taken is not None
    assert (taken.previous, taken.number) == (2, None)
    assert site.rollout.take_back(who="bob", why="alarm") is None
    assert site.after(9) is None
    assert site.aliases[CHAMPION] == 3


def test_another_version_takes_the_place_of_the_one_on_its_way(site: Site) -> None:
    site.rollout.begin(2, who="ann", why="better")
    site.after(1)
    site.rollout.begin(3, who="loop", why="better still")
    assert site.aliases == {CHAMPION: 1, CANARY: None, SHADOW: 3}
    site.rollout.champion(3, who="bob", why="now")
    assert (site.aliases, site.rollout.state) == ({CHAMPION: 3, CANARY: None, SHADOW: None}, None)


def test_a_canary_by_hand_stays_until_it_is_taken_back(site: Site) -> None:
    moved = site.rollout.canary(Split(2, 0.25, "user"), who="ann", why="try")
    assert (moved.alias, moved.why) == (CANARY, "try (0.25 of requests by user)")
    assert read_split(site.catalog.setting, "fraud") == Split(2, 0.25, "user")
    assert site.after(1000) is None
    assert site.aliases == {CHAMPION: 1, CANARY: 2, SHADOW: None}
