"""Fit an estimator of scikit-learn's kind on a feature block."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from headrace.core.columns import FloatArray
from headrace.core.errors import TrainingError
from headrace.registry.predictor import FittedModel, Manifest, Task, load_model
from headrace.registry.preprocessing import Preprocessor
from headrace.retrieval.rows import FeatureBlock

__all__ = ["FittedModel", "dataset_hash", "describe", "load_model", "logistic_baseline", "train"]

# LightGBM parameters that are added unless the estimator names one of the others already.
_LIGHTGBM_DEFAULTS: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("deterministic", True, ("deterministic",)),
    ("force_col_wise", True, ("force_col_wise", "force_row_wise")),
    ("verbosity", -1, ("verbosity", "verbose")),
)


def train(
    estimator: Any, block: FeatureBlock, labels: npt.NDArray[Any], weights: FloatArray | None = None
) -> FittedModel:
    """Fit a clone of `estimator`; it is itself left unfitted.

    Nothing is random that the estimator's parameters do not set: a `random_state` of None becomes 0, and LightGBM is
    told to be deterministic.

    Args:
        estimator: any classifier or regressor that scikit-learn can clone, such as `LGBMClassifier()`.
        block: training rows.
        labels: bool or 0/1 [n] for a classifier, float [n] for a regressor.
        weights: float [n], or None for equal ones.

    Raises:
        TrainingError: an estimator of no kind, no rows, one class only, labels that are missing or are not two classes,
            no usable column, weights for an estimator that takes none, or the estimator failed.
    """
    target = _target(estimator, block, labels)
    preprocessor = Preprocessor.fit(block)
    if not preprocessor.columns:
        raise TrainingError("none of the columns can be trained on: give the view a number, truth value or string")
    fitted = _reproducible(estimator)
    arguments = _fit_arguments(fitted, preprocessor, weights)
    try:
        fitted.fit(preprocessor.transform(block), target, **arguments)
    except Exception as error:
        raise TrainingError(
            f"{describe(estimator)} failed on {len(block)} rows x {len(preprocessor.columns)} columns: "
            f"{error.__class__.__name__}: {error}"
        ) from error
    kind: Literal["lightgbm", "pickle"] = "lightgbm" if _is_lightgbm(fitted) else "pickle"
    manifest = Manifest(kind, _task(estimator), describe(estimator), _libraries(kind))
    return FittedModel(manifest, preprocessor, fitted.booster_ if kind == "lightgbm" else fitted)


def logistic_baseline(block: FeatureBlock) -> Any:
    """An unfitted logistic regression for the columns of `block`, the figure that any other model has to beat.

    Numbers: the median for null, then standardised. Strings: one column per category. All-null columns count for
    nothing.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    preprocessor = Preprocessor.fit(block)
    codes = preprocessor.categorical
    numbers = [index for index in range(len(preprocessor.columns)) if index not in codes]
    numeric = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    columns = ColumnTransformer(
        [("numbers", numeric, numbers), ("strings", OneHotEncoder(handle_unknown="ignore"), codes)]
    )
    return make_pipeline(columns, LogisticRegression(max_iter=1_000))


def describe(estimator: Any) -> str:
    """The estimator with the parameters that differ from its defaults, in one line."""
    return " ".join(repr(estimator).split())


def dataset_hash(block: FeatureBlock, labels: npt.NDArray[Any], weights: FloatArray | None = None) -> str:
    """SHA-256 (hex) of rows, column names, types, labels and weights, in their order; equal hashes are equal training
    data."""
    digest = hashlib.sha256()
    for name, dtype in zip(block.names, block.dtypes, strict=True):
        digest.update(f"{name}:{dtype.value}\n".encode())
    digest.update(np.ascontiguousarray(block.words, "<i8").tobytes())
    digest.update(np.packbits(block.valid).tobytes())
    for name in sorted(block.objects):
        digest.update(repr(block.objects[name].to_pylist()).encode())
    digest.update(np.ascontiguousarray(labels, "<f8").tobytes())
    if weights is not None:
        digest.update(np.ascontiguousarray(weights, "<f8").tobytes())
    return digest.hexdigest()


def _target(estimator: Any, block: FeatureBlock, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if len(labels) != len(block):
        raise TrainingError(f"{len(block)} rows but {len(labels)} labels; give one label per row")
    if not len(block):
        raise TrainingError(
            "there are no rows with a known truth to train on; wait for truth or train on a longer time"
        )
    values = np.asarray(labels, np.float64)
    if not np.isfinite(values).all():
        missing = int((~np.isfinite(values)).sum())
        raise TrainingError(f"{missing} of {len(values)} labels are null; leave out the rows without a known truth")
    if _task(estimator) == "regression":
        return values
    classes = np.unique(values)
    if len(classes) == 1:
        raise TrainingError(
            f"all {len(values)} labels are {classes[0]:g}: one class alone cannot be learnt; train on a longer time"
        )
    if not np.array_equal(classes, [0.0, 1.0]):
        raise TrainingError(
            f"labels have {len(classes)} values, from {classes[0]:g} to {classes[-1]:g}; a classifier's label is true "
            "or false: compare it with a threshold, or use a regressor"
        )
    return values.astype(np.int64)


def _task(estimator: Any) -> Task:
    from sklearn.base import is_classifier

    try:
        return "classification" if is_classifier(estimator) else "regression"
    except AttributeError:
        raise TrainingError(
            f"{type(estimator).__name__} does not say what it is; derive it from ClassifierMixin or RegressorMixin, "
            "and BaseEstimator, of sklearn.base"
        ) from None


def _reproducible(estimator: Any) -> Any:
    from sklearn.base import clone

    fitted: Any = clone(estimator)
    params = fitted.get_params(deep=True)
    unset = {
        name: 0
        for name, value in params.items()
        if value is None and (name == "random_state" or name.endswith("__random_state"))
    }
    if _is_lightgbm(fitted):
        unset |= {name: value for name, value, others in _LIGHTGBM_DEFAULTS if not params.keys() & set(others)}
    return fitted.set_params(**unset)


def _is_lightgbm(estimator: Any) -> bool:
    # A LightGBM class is known by its module, so that LightGBM is not imported for estimators of other kinds.
    return any(base.__module__.startswith("lightgbm.") for base in type(estimator).__mro__)


def _fit_arguments(estimator: Any, preprocessor: Preprocessor, weights: FloatArray | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if _is_lightgbm(estimator) and preprocessor.categorical:
        arguments["categorical_feature"] = preprocessor.categorical
    if weights is not None:
        from sklearn.utils.validation import has_fit_parameter

        # In a pipeline the weights are an argument of its last step.
        steps = getattr(estimator, "steps", None)
        if not has_fit_parameter(steps[-1][1] if steps else estimator, "sample_weight"):
            raise TrainingError(
                f"the rows have weights, and {describe(estimator)} takes none: give it a fit(..., sample_weight=), or "
                "train on rows that were not sampled"
            )
        arguments[f"{steps[-1][0]}__sample_weight" if steps else "sample_weight"] = weights
    return arguments


def _libraries(kind: str) -> dict[str, str]:
    import sklearn

    found = {"numpy": np.__version__, "scikit-learn": str(sklearn.__version__)}
    if kind == "lightgbm":
        import lightgbm

        found["lightgbm"] = str(lightgbm.__version__)
    return found
