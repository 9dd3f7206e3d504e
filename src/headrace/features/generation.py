"""Generations of derived streams: the same definition derived anew, in a topic of its own.

What a derived record holds is what was known when it was derived. Deriving again, of what is known now, makes another
generation: its topic has a number behind its name, and the groups over it have versions of their own, so their records
lie beside those of the former generation and nothing of either is touched by the other. Definitions, and the versions
of features and views, stay what they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TypeVar

from headrace.features.plan import DerivedPlan, GroupPlan, ProjectPlan, ViewPlan

T = TypeVar("T")
_MARK = "-g"


def first_topic(derived: DerivedPlan) -> str:
    """The topic of generation 0: its name says which definition it is, whatever the generation."""
    return f"{derived.name}-{derived.version}"


def generation_topic(first: str, generation: int) -> str:
    """The topic of a generation of the derived stream whose first one is `first`."""
    return f"{first}{_MARK}{generation}" if generation else first


def is_generation(topic: str, derived: DerivedPlan) -> bool:
    """True if a topic is a generation of the derived stream, whichever the plan is at."""
    first = first_topic(derived)
    return topic == first or (topic.startswith(first + _MARK) and topic[len(first + _MARK) :].isdecimal())


def generations_of(plan: ProjectPlan) -> dict[str, int]:
    """The generation of each derived stream of a plan, by first topic."""
    return {first_topic(d): _number(first_topic(d), d.topic) for d in plan.derived.values()}


def at_generations(plan: ProjectPlan, wanted: Mapping[str, int]) -> ProjectPlan:
    """The plan with its derived streams, and all that reads them, at these generations (by first topic; else 0).

    Groups that run on a schedule go on doing so.
    """
    moved = {
        derived.topic: generation_topic(first_topic(derived), wanted.get(first_topic(derived), 0))
        for derived in plan.derived.values()
    }
    if all(before == after for before, after in moved.items()):
        return plan

    def view(found: ViewPlan) -> ViewPlan:
        return replace(found, stream=moved.get(found.stream, found.stream))

    def group(found: GroupPlan) -> GroupPlan:
        topic = moved.get(found.stream, found.stream)
        return replace(found, stream=topic, version=version_at(found.version, found.stream, topic))

    versions = {g.version: group(g).version for g in plan.computed_groups}
    return replace(
        plan,
        groups={name: group(found) for name, found in plan.groups.items()},
        kept_groups={name: group(found) for name, found in plan.kept_groups.items()},
        views={name: view(found) for name, found in plan.views.items()},
        kept_views={name: view(found) for name, found in plan.kept_views.items()},
        models={
            name: replace(m, label=replace(m.label, stream=moved.get(m.label.stream, m.label.stream)))
            for name, m in plan.models.items()
        },
        derived={
            moved[topic]: replace(d, stream=replace(d.stream, name=moved[topic]), view=view(d.view))
            for topic, d in plan.derived.items()
        },
        scheduled={versions.get(version, version): us for version, us in plan.scheduled.items()},
    )


def version_at(version: str, topic: str, other: str) -> str:
    """The version that a group over `topic` has over `other`, another generation of it; there and back is the same.

    A generation adds its mark to the bits of the definition's version, so that no table of both has to be kept.
    """
    return f"{int(version, 16) ^ _marked(topic) ^ _marked(other):016x}"


def in_generation(plan: ProjectPlan, by_topic: Mapping[str, T]) -> dict[str, T]:
    """What is given by topic, that of derived streams under the topics of this plan: from its generation if that is
    named, else from the newest that is. Records of all generations stand at the same offsets.
    """
    found = dict(by_topic)
    for first, numbers in named_generations(plan, by_topic.keys()).items():
        topic = next(d.topic for d in plan.derived.values() if first_topic(d) == first)
        found.setdefault(topic, by_topic[generation_topic(first, numbers[-1])])
    return found


def named_generations(plan: ProjectPlan, topics: Collection[str]) -> dict[str, list[int]]:
    """Which generations of each derived stream of the plan are among `topics`, ascending; by first topic."""
    found: dict[str, list[int]] = {}
    for derived in plan.derived.values():
        first = first_topic(derived)
        numbers = [_number(first, topic) for topic in topics if topic == first or topic.startswith(first + _MARK)]
        if numbers:
            found[first] = sorted(numbers)
    return found


def downstream(plan: ProjectPlan, names: Collection[str]) -> list[DerivedPlan]:
    """The derived streams of these names, and those that are derived from them or look up a group over them, each after
    those that it reads."""
    found: dict[str, DerivedPlan] = {}
    for derived in plan.derived.values():
        read = {plan.groups[b.source].stream for b in derived.view.bindings if not b.is_table} | {derived.source}
        if derived.name in names or not read.isdisjoint(found):
            found[derived.topic] = derived
    return list(found.values())


def _number(first: str, topic: str) -> int:
    return int(topic.removeprefix(first + _MARK)) if topic != first else 0


def _marked(topic: str) -> int:
    if _MARK not in topic:
        return 0
    return int.from_bytes(hashlib.blake2b(topic.encode(), digest_size=8).digest(), "big")
