"""Fitting: any estimator, the same bits every time, and back from its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

from headrace.catalog.catalog import Catalog
from headrace.core.accuracy import roc_auc
from headrace.core.errors import StoreError, TrainingError
from headrace.core.schema import DType
from headrace.core.time import SimulatedClock
from headrace.registry.base import DataSnapshot, NewVersion
from headrace.registry.local import LocalModelRegistry
from headrace.registry.predictor import BOOSTER, PICKLE, FittedModel, load_model
from headrace.registry.preprocessing import Preprocessor
from headrace.retrieval.rows import FeatureBlock
from headrace.training.fit import dataset_hash, logistic_baseline, train
from tests.unit.training.blocks import block_of

ROWS = 600


def problem(seed: int = 0, rows: int = ROWS) -> tuple[FeatureBlock, np.ndarray]:
    """Rows whose truth depends on a number and a string; the number is null in every tenth row."""
    generator = np.random.default_rng(seed)
    number, noise = generator.normal(size=rows), generator.normal(size=rows)
    carrier = generator.choice(["AA", "UA", "B6"], rows)
    truth = number + 1.5 * (carrier == "AA") + 0.5 * noise > 0.8
    block = block_of(
        number=(DType.FLOAT, [None if i % 10 == 0 else float(v) for i, v in enumerate(number)]),
        count=(DType.INT, generator.integers(0, 5, rows).tolist()),
        at=(DType.TIMESTAMP, list(range(rows))),
        carrier=(DType.STRING, carrier.tolist()),
        empty=(DType.FLOAT, [None] * rows),
    )
    return block, truth


def small() -> LGBMClassifier:
    return LGBMClassifier(n_estimators=20, min_child_samples=5, n_jobs=1)


@pytest.mark.parametrize("kind", ["lightgbm", "logistic", "forest"])
def test_it_learns_and_predicts_probabilities_of_rows_it_has_not_seen(kind: str) -> None:
    block, truth = problem()
    estimator = {
        "lightgbm": small(),
        "logistic": logistic_baseline(block),
        "forest": RandomForestClassifier(n_estimators=20),
    }[kind]
    fitted = train(estimator, block, truth)
    fresh, fresh_truth = problem(seed=1)
    scores = fitted.predict(fresh)
    assert scores.dtype == np.float64
    assert scores.shape == (ROWS,)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert roc_auc(fresh_truth, scores) > 0.85


@pytest.mark.parametrize("estimator", [small(), RandomForestClassifier(n_estimators=5)], ids=["lightgbm", "forest"])
def test_training_twice_gives_the_same_bits(estimator: object) -> None:
    block, truth = problem()
    first, second = (train(estimator, block, truth).predict(block) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_the_estimator_given_stays_unfitted_and_unchanged() -> None:
    block, truth = problem()
    estimator = small()
    before = estimator.get_params()
    train(estimator, block, truth)
    assert estimator.get_params() == before
    assert not hasattr(estimator, "fitted_") or not estimator.fitted_


def test_the_booster_predicts_what_the_wrapper_would() -> None:
    block, truth = problem()
    fitted = train(small(), block, truth)
    matrix = Preprocessor.fit(block).transform(block)
    twin = LGBMClassifier(
        **small().get_params() | {"random_state": 0}, deterministic=True, force_col_wise=True, verbosity=-1
    )
    twin.fit(matrix, truth, categorical_feature=[2])
    expected = twin.booster_.predict(matrix)
    np.testing.assert_array_equal(fitted.predict(block), expected)


def test_one_row_scores_the_same_as_among_many() -> None:
    block, truth = problem()
    fitted = train(small(), block, truth)
    together = fitted.predict(block)
    alone = [fitted.predict(block.take(np.array([row])))[0] for row in range(0, ROWS, 97)]
    assert alone == together[::97].tolist()


def test_weights_reach_the_estimator() -> None:
    block, truth = problem()
    flat, weighted = (
        train(logistic_baseline(block), block, truth, weights) for weights in (None, np.where(truth, 50.0, 1.0))
    )
    assert weighted.predict(block).mean() > flat.predict(block).mean() + 0.1
    ignoring = train(small(), block, truth, np.where(truth, 1.0, 1e-9))
    assert ignoring.predict(block)[truth].mean() > 0.95


def test_regression_predicts_numbers() -> None:
    target = np.arange(ROWS, dtype=np.float64)
    line = block_of(x=(DType.FLOAT, target.tolist()))
    fitted = train(LinearRegression(), line, target)
    np.testing.assert_allclose(fitted.predict(line), target, atol=1e-6)
    assert fitted.manifest.task == "regression"
    trees = train(LGBMRegressor(n_estimators=30, n_jobs=1), line, target)
    assert np.corrcoef(trees.predict(line), target)[0, 1] > 0.99


@pytest.mark.parametrize("kind", ["lightgbm", "logistic"])
def test_a_registered_model_comes_back_to_the_bit(tmp_path: Path, kind: str) -> None:
    block, truth = problem()
    fitted = train(small() if kind == "lightgbm" else logistic_baseline(block), block, truth)
    catalog = Catalog(tmp_path / "c.db", SimulatedClock(0))
    registry = LocalModelRegistry(catalog, tmp_path / "models")
    snapshot = DataSnapshot(ROWS, int(truth.sum()), 0, ROWS, dataset_hash=dataset_hash(block, truth))
    info = NewVersion("late", "flight", "v1", fitted.columns, {}, snapshot, estimator=fitted.manifest.estimator)
    number = registry.register(info, fitted.to_files()).number
    again = load_model(registry, "late", number)
    assert again.predict(block).tobytes() == fitted.predict(block).tobytes()
    assert again.columns == ("number", "count", "carrier", "empty")
    assert again.manifest == fitted.manifest
    assert (BOOSTER in registry.get("late", 1).files) == (kind == "lightgbm")

    damaged = tmp_path / "models" / "late" / "1" / (BOOSTER if kind == "lightgbm" else PICKLE)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="SHA-256 differs"):
        load_model(registry, "late", number)
    catalog.close()


def test_files_that_are_no_model_are_refused() -> None:
    with pytest.raises(StoreError, match=r"lack 'model\.json'"):
        FittedModel.from_files({})
    with pytest.raises(StoreError, match="cannot be read"):
        FittedModel.from_files({"model.json": b"[", "preprocessing.json": b"{}"})


def test_no_rows_give_no_predictions() -> None:
    block, truth = problem()
    none = block.take(np.array([], np.int64))
    assert train(small(), block, truth).predict(none).shape == (0,)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(4), "one class alone"),
        (np.array([0.0, 1.0, 2.0, 1.0]), "true or false"),
        (np.array([0.0, 1.0, np.nan, 1.0]), "1 of 4 labels are null"),
        (np.array([0.0, 1.0]), "4 rows but 2 labels"),
    ],
)
def test_unusable_labels_are_refused(labels: np.ndarray, message: str) -> None:
    block = block_of(x=(DType.FLOAT, [1.0, 2.0, 3.0, 4.0]))
    with pytest.raises(TrainingError, match=message):
        train(LogisticRegression(), block, labels)


def test_unusable_blocks_are_refused() -> None:
    with pytest.raises(TrainingError, match="no rows"):
        train(LogisticRegression(), block_of(x=(DType.FLOAT, [])), np.array([]))
    with pytest.raises(TrainingError, match="none of the columns"):
        train(LogisticRegression(), block_of(t=(DType.TIMESTAMP, [1, 2])), np.array([0, 1]))


def test_an_estimator_that_does_not_say_what_it_is_is_refused_with_the_cure() -> None:
    class Bare:
        def fit(self, rows: np.ndarray, labels: np.ndarray) -> None: ...

    with pytest.raises(TrainingError, match="Bare does not say what it is; derive it from ClassifierMixin"):
        train(Bare(), block_of(x=(DType.FLOAT, [1.0, 2.0])), np.array([0, 1]))


def test_a_failing_estimator_is_named() -> None:
    block = block_of(x=(DType.FLOAT, [1.0, None]))
    with pytest.raises(TrainingError, match=r"LogisticRegression\(C=7\) failed on 2 rows x 1 columns: ValueError"):
        train(LogisticRegression(C=7), block, np.array([0, 1]))


def test_a_lightgbm_parameter_that_is_set_stays(recwarn: pytest.WarningsRecorder) -> None:
    block, truth = problem()
    fitted = train(LGBMClassifier(n_estimators=3, force_row_wise=True, verbose=-1, random_state=7), block, truth)
    parameters = fitted.predictor.params
    assert parameters["force_row_wise"] is True
    assert "force_col_wise" not in parameters
    assert parameters["deterministic"] is True
    assert len(recwarn) == 0


def test_libraries_and_estimator_are_written_down() -> None:
    block, truth = problem()
    manifest = train(DummyClassifier(strategy="prior"), block, truth).manifest
    assert manifest.estimator == "DummyClassifier()"
    assert set(manifest.libraries) == {"numpy", "scikit-learn"}
    assert "lightgbm" in train(small(), block, truth).manifest.libraries


def test_the_dataset_hash_tells_data_apart() -> None:
    block, truth = problem(rows=20)
    same, same_truth = problem(rows=20)
    assert dataset_hash(block, truth) == dataset_hash(same, same_truth)
    flipped = truth.copy()
    flipped[3] = not flipped[3]
    words, valid = block.words.copy(), block.valid.copy()
    words[1, 0] += 1
    valid[1, 0] = not valid[1, 0]
    hashes = {
        dataset_hash(block, truth),
        dataset_hash(block, flipped),
        dataset_hash(block.select(["number", "count"]), truth),
        dataset_hash(FeatureBlock(block.names, block.dtypes, words, block.valid, block.objects), truth),
        dataset_hash(FeatureBlock(block.names, block.dtypes, block.words, valid, block.objects), truth),
        dataset_hash(block_of(s=(DType.STRING, ["a"] * 20)), truth),
        dataset_hash(block_of(s=(DType.STRING, ["b"] * 20)), truth),
    }
    assert len(hashes) == 7
