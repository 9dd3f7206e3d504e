"""A fitted model: preprocessing and estimator together, as files and back, and its predictions.

A LightGBM model is kept as its own text format and predicts through its Booster, which is ten times faster than the
scikit-learn wrapper on a few rows and needs no pickle. Any other estimator is kept as a pickle; the registry checks
the hash of a file before it is opened here.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from headrace.core.columns import FloatArray
from headrace.core.errors import StoreError
from headrace.registry.base import ModelRegistry
from headrace.registry.lightgbm_rows import RowPredictor
from headrace.registry.preprocessing import Preprocessor, WordBlock

MANIFEST = "model.json"
PREPROCESSING = "preprocessing.json"
BOOSTER = "booster.txt"
PICKLE = "estimator.pickle"

_FEW_ROWS = 100_000
"""Up to here one thread is as fast as all, and leaves the others to serve."""

Task = Literal["classification", "regression"]


class Manifest(msgspec.Struct, frozen=True):
    """What the files of a model are.

    Attributes:
        kind: "lightgbm" (text model) or "pickle".
        task: whether predictions are probabilities of the truth being true, or numbers.
        estimator: the estimator and its parameters, for people.
        libraries: version of each library that wrote the files.
    """

    kind: Literal["lightgbm", "pickle"]
    task: Task
    estimator: str
    libraries: dict[str, str]


class FittedModel:
    """A model that predicts from feature blocks. Thread-safe; the same rows always get the same bits."""

    def __init__(self, manifest: Manifest, preprocessor: Preprocessor, predictor: Any) -> None:
        """`predictor` is a LightGBM Booster, or a fitted estimator of scikit-learn's kind."""
        self.manifest = manifest
        self.preprocessor = preprocessor
        self.predictor = predictor
        self._few: RowPredictor | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The feature columns that it reads, in order."""
        return self.preprocessor.columns

    def predict(self, block: WordBlock) -> FloatArray:
        """Return float64 [n]: the probability of true, or the number that a regression predicts.

        Raises SchemaError if the block lacks a column or has it in another type.
        """
        return self.predict_matrix(self.preprocessor.transform(block))

    def predict_matrix(self, matrix: FloatArray) -> FloatArray:
        """The same for a matrix that `preprocessor.transform` made."""
        if not len(matrix):
            return np.empty(0, np.float64)
        if self.manifest.kind == "lightgbm":
            if len(matrix) <= _FEW_ROWS:
                self._few = self._few or RowPredictor(self.predictor)
                return self._few.predict(np.ascontiguousarray(matrix))
            scores = self.predictor.predict(matrix)
        elif self.manifest.task == "classification":
            scores = self.predictor.predict_proba(matrix)[:, 1]
        else:
            scores = self.predictor.predict(matrix)
        return np.ascontiguousarray(scores, np.float64)

    def to_files(self) -> dict[str, bytes]:
        """The artifacts, by file name."""
        files = {MANIFEST: msgspec.json.encode(self.manifest), PREPROCESSING: self.preprocessor.to_json()}
        if self.manifest.kind == "lightgbm":
            files[BOOSTER] = self.predictor.model_to_string().encode()
        else:
            files[PICKLE] = pickle.dumps(self.predictor, protocol=5)
        return files

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> FittedModel:
        """Read artifacts back; only ever give it files whose hashes were checked, a pickle runs code.

        Raises StoreError if a file is missing or unreadable.
        """
        try:
            manifest = msgspec.json.decode(files[MANIFEST], type=Manifest)
            preprocessor = Preprocessor.from_json(files[PREPROCESSING])
            predictor = _booster(files[BOOSTER]) if manifest.kind == "lightgbm" else pickle.loads(files[PICKLE])
        except KeyError as error:
            raise StoreError(f"the model's files lack {error}; there are: {', '.join(sorted(files))}") from error
        except msgspec.DecodeError as error:
            raise StoreError(f"the model's files cannot be read: {error}; retrain it") from error
        return cls(manifest, preprocessor, predictor)


def load_model(registry: ModelRegistry, model: str, number: int) -> FittedModel:
    """Load a registered version; its files are checked against the recorded hashes first.

    Raises NotFound if there is no such version and StoreError if its files are damaged.
    """
    return FittedModel.from_files(registry.files(model, number))


def _booster(data: bytes) -> Any:
    import lightgbm

    return lightgbm.Booster(model_str=data.decode())
