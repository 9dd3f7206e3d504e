"""The scorer: the champion answers, promotions are taken over whole, shadows never get in the way."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from lightgbm import LGBMClassifier

from headrace.catalog.catalog import Catalog
from headrace.core.errors import NotFound, PlanError, StoreError
from headrace.core.positions import EMPTY_POSITION
from headrace.core.time import SimulatedClock
from headrace.eventlog.memory import MemoryEventLog
from headrace.registry.base import CANARY, CHALLENGER, CHAMPION, DataSnapshot, NewVersion
from headrace.registry.local import LocalModelRegistry
from headrace.registry.predictor import FittedModel
from headrace.retrieval.predictions import read_predictions
from headrace.serving.prediction_log import PredictionLog
from headrace.serving.scorer import CANARY_FAILED, EMPTY_STORE, OVERFLOW, SHADOW_FAILED, STALE, Answers, Scored, Scorer
from headrace.serving.split import Split
from headrace.training.fit import train
from tests.unit.serving.views import MODEL, PROJECT, VIEW, FakeReader, features, position, request

NOW = 1_000


def fitted(offset: int) -> FittedModel:
    rows = [[i, i / 7, True, "gold", None, 5] for i in range(60)]
    truth = np.array([(i + offset) % 20 > 9 for i in range(60)])
    return train(LGBMClassifier(n_estimators=4, min_child_samples=2), features(rows), truth)


@pytest.fixture(scope="module")
def models() -> list[FittedModel]:
    return [fitted(0), fitted(5)]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalModelRegistry]:
    catalog = Catalog(tmp_path / "c.db", SimulatedClock(10))
    yield LocalModelRegistry(catalog, tmp_path / "models")
    catalog.close()


def register(
    registry: LocalModelRegistry, model: FittedModel, *, view_version: str = VIEW.version, alias: str | None = CHAMPION
) -> int:
    snapshot = DataSnapshot(rows=60, positives=30, since_us=0, until_us=9)
    info = NewVersion("fraud", VIEW.name, view_version, model.columns, {}, snapshot)
    number = registry.register(info, model.to_files()).number
    if alias is not None:
        registry.set_alias("fraud", alias, number, who="test", why="test")
    return number


def scorer(registry: LocalModelRegistry, reader: FakeReader | None = None, **more: object) -> Scorer:
    return Scorer(PROJECT, MODEL, reader or FakeReader(), registry, SimulatedClock(NOW), **more)  # type: ignore[arg-type]


def only(answers: Answers) -> Scored:
    """The answer to a batch that one version answered."""
    (scored,) = answers
    return scored


def test_without_a_champion_it_says_what_to_do(registry: LocalModelRegistry, models: list[FittedModel]) -> None:
    served = scorer(registry)
    with pytest.raises(NotFound, match=r"headrace train fraud.*headrace promote fraud"):
        only(served.score(request(["a"], [1])))
    register(registry, models[0])
    assert only(served.score(request(["a"], [1]))).version == 1


def test_an_answer_is_what_the_champion_says_of_what_was_read(
    registry: LocalModelRegistry, models: list[FittedModel]
) -> None:
    register(registry, models[0])
    reader = FakeReader()
    asked = request(["a", "b", "c"], [1, 2, 3])
    got = only(scorer(registry, reader, id_prefix=37).score(asked))
    assert got.values.tobytes() == models[0].predict(reader.read(asked)).tobytes()
    assert got.ids == ["p-11-0", "p-11-1", "p-11-2"]
    assert got.block.request_ids == ["a", "b", "c"]
    assert (got.version, got.model, got.position, got.degraded) == (1, "fraud", position(5), ())
    assert (got.block.scored_us, got.block.t_us.tolist()) == (NOW, [1, 2, 3])


def test_ids_never_repeat(registry: LocalModelRegistry, models: list[FittedModel]) -> None:
    register(registry, models[0])
    served = scorer(registry, id_prefix=1)
    ids = [name for n in (700, 700, 40_000, 8_000) for name in only(served.score(request(["r"] * n, [1] * n))).ids]
    assert len(set(ids)) == len(ids)
    assert [int(name.rsplit("-", 1)[1], 36) for name in ids] == list(range(len(ids)))


def test_a_promotion_is_taken_over_by_reload_alone(registry: LocalModelRegistry, models: list[FittedModel]) -> None:
    register(registry, models[0])
    served = scorer(registry)
    assert served.reload()
    assert not served.reload()
    first = only(served.score(request(["a", "b"], [1, 2])))
    register(registry, models[1])
    assert only(served.score(request(["a", "b"], [1, 2]))).version == 1
    assert served.reload()
    second = only(served.score(request(["a", "b"], [1, 2])))
    assert second.version == 2
    assert second.values.tobytes() == models[1].predict(first.features).tobytes() != first.values.tobytes()
    registry.set_alias("fraud", CHAMPION, 1, who="test", why="roll back")
    assert served.reload()
    assert only(served.score(request(["a", "b"], [1, 2]))).values.tobytes() == first.values.tobytes()


def test_a_version_of_another_view_is_refused_and_the_old_one_stays(
    registry: LocalModelRegistry, models: list[FittedModel]
) -> None:
    register(registry, models[0])
    served = scorer(registry)
    served.reload()
    register(registry, models[1], view_version="view-2")
    with pytest.raises(PlanError, match=r"version 2 .* trained on view payment view-2, but payment view-1 is served"):
        served.reload()
    assert served.refused is not None
    assert not served.reload()
    assert only(served.score(request(["a"], [1]))).version == 1
    registry.set_alias("fraud", CHAMPION, 1, who="test", why="roll back")
    served.reload()
    assert served.refused is None


def test_damaged_files_keep_the_old_version_and_are_tried_again(
    registry: LocalModelRegistry, models: list[FittedModel], tmp_path: Path
) -> None:
    register(registry, models[0])
    served = scorer(registry)
    served.reload()
    register(registry, models[1])
    path = tmp_path / "models" / "fraud" / "2" / "booster.txt"
    good = path.read_bytes()
    path.write_bytes(good[:-10])
    for _ in range(2):
        with pytest.raises(StoreError, match=r"booster\.txt"):
            served.reload()
    assert only(served.score(request(["a"], [1]))).version == 1
    path.write_bytes(good)
    assert served.reload()
    assert only(served.score(request(["a"], [1]))).version == 2


def test_no_champion_any_more_stops_answers(registry: LocalModelRegistry, models: list[FittedModel]) -> None:
    register(registry, models[0])
    served = scorer(registry)
    served.reload()
    registry.set_alias("fraud", CHAMPION, None, who="test", why="withdrawn")
    assert served.reload()
    assert served.champion is None
    with pytest.raises(NotFound, match="no champion"):
        only(served.score(request(["a"], [1])))


def test_shadows_score_beside_and_are_logged(registry: LocalModelRegistry, models: list[FittedModel]) -> None:
    register(registry, models[0])
    register(registry, models[1], alias=CHALLENGER)
    log = MemoryEventLog(SimulatedClock())
    served = scorer(registry, log=PredictionLog(log), shadows=(CHALLENGER, "frozen"))
    got = only(served.score(request(["a", "b"], [1, 2])))
    assert got.version == 1
    batch, _ = read_predictions(log, "fraud", VIEW)
    assert batch.ids == got.ids
    assert batch.scores.tobytes() == got.values.tobytes()
    assert batch.by_version[2].tobytes() == models[1].predict(got.features).tobytes()
    registry.set_alias("fraud", "frozen", 1, who="test", why="the champion is no shadow of itself")
    served.reload()
    assert set(only(served.score(request(["a"], [1]))).block.scores) == {1, 2}


def test_a_shadow_that_fails_or_cannot_be_loaded_does_not_reach_the_caller(
    registry: LocalModelRegistry, models: list[FittedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(registry, models[0])
    register(registry, models[1], view_version="view-2", alias=CHALLENGER)
    served = scorer(registry, shadows=(CHALLENGER,))
    assert only(served.score(request(["a"], [1]))).degraded == ()
    assert served.refused is not None
    assert 'alias "challenger"' in served.refused
    register(registry, models[1], alias=CHALLENGER)
    served.reload()
    predict = FittedModel.predict
    champion = served.champion
    assert champion is not None

    def failing(self: FittedModel, block: object) -> object:
        if self is not champion.fitted:
            raise RuntimeError("a shadow broke")
        return predict(self, block)  # type: ignore[arg-type]

    monkeypatch.setattr(FittedModel, "predict", failing)
    got = only(served.score(request(["a"], [1])))
    assert (got.version, got.degraded, set(got.block.scores)) == (1, (SHADOW_FAILED,), {1})


def test_what_is_wrong_with_an_answer_is_said(registry: LocalModelRegistry, models: list[FittedModel]) -> None:
    register(registry, models[0])
    reader = FakeReader(EMPTY_POSITION)
    served = scorer(registry, reader, stale_after_us=100)
    assert only(served.score(request(["a"], [1]))).degraded == (EMPTY_STORE,)
    reader.at = position(5)
    reader.overflows_per_read = 1
    assert only(served.score(request(["a"], [1]))).degraded == (OVERFLOW,)


def test_no_request_is_no_prediction(registry: LocalModelRegistry, models: list[FittedModel]) -> None:
    register(registry, models[0])
    log = MemoryEventLog(SimulatedClock())
    served = scorer(registry, log=PredictionLog(log))
    assert len(only(served.score(request([], [])))) == 0
    assert len(read_predictions(log, "fraud", VIEW)[0]) == 0


def test_stale_means_that_the_newest_event_of_the_view_is_old(
    registry: LocalModelRegistry, models: list[FittedModel]
) -> None:
    from dataclasses import replace

    from headrace.features.plan import Binding, GroupPlan

    group = GroupPlan("Spend", "00" * 8, "Payment", None, (), (), (), (), ())
    view = replace(VIEW, bindings=(Binding("Spend", False, "", ()),))
    project = replace(PROJECT, groups={"Spend": group}, views={"payment": view})
    register(registry, models[0])
    for limit, expected in ((NOW - 90, ()), (NOW - 91, (STALE,))):
        served = Scorer(project, MODEL, FakeReader(), registry, SimulatedClock(NOW), stale_after_us=limit)
        assert only(served.score(request(["a"], [1]))).degraded == expected


def hashed(number: int, model: str, text: str) -> float:
    """Where a request lies between 0 and 1."""
    return (
        int.from_bytes(blake2b(text.encode(), digest_size=8, key=f"{number} {model}".encode()).digest(), "big") / 2**64
    )


def test_a_canary_answers_its_share_and_always_the_same_requests(
    registry: LocalModelRegistry, models: list[FittedModel]
) -> None:
    for model, alias in zip(models, (CHAMPION, CANARY), strict=True):
        register(registry, model, alias=alias)
    log = MemoryEventLog(SimulatedClock(NOW))
    names = [f"r{i}" for i in range(400)]
    asked = request(names, list(range(400)))
    served = scorer(registry, log=PredictionLog(log), split=lambda: Split(2, 0.25))
    answers = served.score(asked)
    mine = [hashed(2, "fraud", name) < 0.25 for name in names]
    assert 60 < sum(mine) < 140
    assert [scored.version for scored in answers] == [1, 2]
    versions = answers.in_order(lambda scored: [scored.version] * len(scored))
    assert versions == [2 if chosen else 1 for chosen in mine]
    assert answers.in_order(lambda scored: scored.block.request_ids) == names
    for scored in answers:
        assert scored.values.tobytes() == models[scored.version - 1].predict(scored.features).tobytes()
    # After a restart, and asked one by one: by the same version.
    again = scorer(registry, split=lambda: Split(2, 0.25))
    assert [only(again.score(request([name], [1]))).version for name in names[:40]] == versions[:40]
    logged, _ = read_predictions(log, "fraud", VIEW, 0, 1_000)
    told = dict(zip(logged.request_ids, logged.versions.tolist(), strict=True))
    assert [told[name] for name in names] == versions
    # The champion scored the canary's requests, too; the canary no other's.
    both = [set(scored.block.scores) for scored in answers]
    assert both == [{1}, {1, 2}]
    assert len(only(served.score(request([], [])))) == 0


def test_a_canary_by_a_field_answers_all_requests_of_an_entity(
    registry: LocalModelRegistry, models: list[FittedModel]
) -> None:
    for model, alias in zip(models, (CHAMPION, CANARY), strict=True):
        register(registry, model, alias=alias)
    served = scorer(registry, split=lambda: Split(2, 0.5, "user"))
    users = [None if i % 10 == 9 else f"u{i % 10}" for i in range(100)]
    answers = served.score(request([f"r{i}" for i in range(100)], [1] * 100, users))
    versions = answers.in_order(lambda scored: [scored.version] * len(scored))
    of_user = {user: {v for u, v in zip(users, versions, strict=True) if u == user} for user in set(users)}
    assert all(len(found) == 1 for found in of_user.values())
    assert set().union(*of_user.values()) == {1, 2}
    assert of_user[None] == {1}


def test_a_canary_that_fails_leaves_the_answer_to_the_champion(
    registry: LocalModelRegistry, models: list[FittedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    for model, alias in zip(models, (CHAMPION, CANARY), strict=True):
        register(registry, model, alias=alias)
    served = scorer(registry, split=lambda: Split(2, 0.999999))
    served.reload()
    assert only(served.score(request(["a"], [1]))).version == 2
    on_trial = served.canary
    assert on_trial is not None

    predict, canary = FittedModel.predict, on_trial[0].fitted

    def failing(self: FittedModel, block: object) -> object:
        if self is canary:
            raise RuntimeError("a canary broke")
        return predict(self, block)  # type: ignore[arg-type]

    monkeypatch.setattr(FittedModel, "predict", failing)
    got = only(served.score(request(["a"], [1])))
    assert (got.version, got.degraded, set(got.block.scores)) == (1, (CANARY_FAILED,), {1})


@pytest.mark.parametrize("split", [None, Split(3, 0.5), Split(1, 0.5)])
def test_an_alias_without_its_split_is_no_canary(
    registry: LocalModelRegistry, models: list[FittedModel], split: Split | None
) -> None:
    for model, alias in zip(models, (CHAMPION, CANARY), strict=True):
        register(registry, model, alias=alias)
    served = scorer(registry, split=lambda: split)
    assert {only(served.score(request([f"r{i}"], [1]))).version for i in range(30)} == {1}
    assert served.canary is None
