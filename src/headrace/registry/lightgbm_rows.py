"""Predictions of a LightGBM booster for a few rows, without what its Python face does around each call.

`Booster.predict` copies its parameters and asks the library for counts again on every call, which takes longer than the
trees themselves where rows are few. This makes the one call of LightGBM's C API that it ends in, with the same
arguments, so the bits are the same.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np

from headrace.core.columns import FloatArray

_FLOAT64: Final = ctypes.c_int(1)
_ROW_MAJOR: Final = ctypes.c_int(1)
_NORMAL: Final = ctypes.c_int(0)
_FIRST: Final = ctypes.c_int(0)
_PARAMETERS: Final = ctypes.c_char_p(b"num_threads=1")


class RowPredictor:
    """Predicts with a booster that has one output: with its best iteration, or all if none is known. Thread-safe."""

    def __init__(self, booster: Any) -> None:
        from lightgbm.basic import _LIB  # type: ignore[attr-defined]

        self._booster = booster  # which owns the handle
        self._handle = booster._handle
        self._trees = ctypes.c_int(booster.best_iteration if booster.best_iteration > 0 else -1)
        self._call = _LIB.LGBM_BoosterPredictForMat
        self._last_error = _LIB.LGBM_GetLastError

    def predict(self, matrix: FloatArray) -> FloatArray:
        """Return float64 [n] for a float64 matrix [n, columns] in C order; raises RuntimeError if LightGBM refuses."""
        rows, columns = matrix.shape
        out = np.empty(rows, np.float64)
        length = ctypes.c_int64(0)
        failed = self._call(
            self._handle, ctypes.c_void_p(_address(matrix)), _FLOAT64, ctypes.c_int32(rows), ctypes.c_int32(columns),
            _ROW_MAJOR, _NORMAL, _FIRST, self._trees, _PARAMETERS, ctypes.byref(length), ctypes.c_void_p(_address(out)),
        )  # fmt: skip
        if failed:
            self._last_error.restype = ctypes.c_char_p
            raise RuntimeError(self._last_error().decode())
        if length.value != rows:
            raise RuntimeError(f"the booster has {length.value / max(rows, 1):g} outputs per row, 1 is expected")
        return out


def _address(array: FloatArray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
