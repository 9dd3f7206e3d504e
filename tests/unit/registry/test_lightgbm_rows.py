"""The direct call into LightGBM against its Python face."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.registry.lightgbm_rows import RowPredictor

lightgbm = pytest.importorskip("lightgbm")


def rows(n: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n, 6))
    matrix[rng.random(matrix.shape) < 0.2] = np.nan
    matrix[:, 5] = rng.integers(0, 4, n)
    return matrix


def fitted(kind: str, **fit: Any) -> Any:
    x = rows(2_000, 1)
    score = np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 1]) * x[:, 5]
    estimator = getattr(lightgbm, f"LGBM{kind}")(n_estimators=30, verbose=-1, n_jobs=1)
    if fit:
        # Labels of chance: more trees only make it worse.
        fit |= {"eval_X": rows(500, 3), "eval_y": np.random.default_rng(4).integers(0, 2, 500)}
    y = (score > 0).astype(int) if kind == "Classifier" else score
    return estimator.fit(x, y, categorical_feature=[5], **fit).booster_


@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
def test_the_bits_are_those_of_booster_predict(kind: str) -> None:
    booster = fitted(kind)
    again = lightgbm.Booster(model_str=booster.model_to_string())
    for n in (1, 2, 17, 1_000):
        x = rows(n, n)
        wanted = booster.predict(x, num_threads=1)
        for one in (booster, again):
            assert RowPredictor(one).predict(x).tobytes() == wanted.tobytes()


def test_trees_after_the_best_iteration_do_not_count() -> None:
    booster = fitted("Classifier", callbacks=[lightgbm.early_stopping(2, verbose=False)])
    assert 0 < booster.best_iteration < 30
    x = rows(50, 9)
    assert RowPredictor(booster).predict(x).tobytes() == booster.predict(x, num_threads=1).tobytes()


def test_a_matrix_of_another_width_is_refused() -> None:
    with pytest.raises(RuntimeError, match="number of features"):
        RowPredictor(fitted("Regressor")).predict(rows(2, 1)[:, :4].copy())
