"""Functions that look across rows are found before they are served; those that do not are left alone."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest

import headrace as hr
from headrace.features.compile import compile_project
from headrace.features.row_functions import function_problems


class Pay(hr.Event):
    pay_id: hr.Field[str] = hr.id()
    user: hr.Field[str]
    amount: hr.Field[float]
    n: hr.Field[int]
    ok: hr.Field[bool]
    at: hr.Field[datetime] = hr.event_time()


@hr.function(returns=float)
def own(x: hr.Column, n: hr.Column, factor: hr.Column) -> hr.Column:
    return np.asarray(np.sin(x) * n**2 / (1 + np.abs(x)) * factor)


@hr.function(returns=str, nulls="pass")
def named(user: hr.Column, ok: hr.Column, at: hr.Column) -> hr.Column:
    return np.array([f"{u}/{o}/{t}" for u, o, t in zip(user, ok, at, strict=True)], object)


@hr.function(returns=float)
def picky(x: hr.Column) -> hr.Column:
    raise ValueError("only values that nobody makes up")


@hr.function(returns=float)
def centred(x: hr.Column) -> hr.Column:
    return np.asarray(x - x.mean())


@hr.function(returns=float)
def running(x: hr.Column) -> hr.Column:
    return np.asarray(np.cumsum(x))


@hr.function(returns=float)
def one(x: hr.Column) -> hr.Column:
    return np.asarray(x.max())


@hr.function(returns=float)
def pairs(x: hr.Column) -> hr.Column:
    return np.asarray(np.gradient(x))


def problems(column: hr.Expr[float] | hr.Expr[str]) -> list[str]:
    class Now(hr.OnRequest):
        value = column

    view = hr.FeatureView("pay", request=Pay, features=[Now])
    return function_problems(compile_project([Pay, Now, view]))


def test_functions_of_a_row_are_left_alone() -> None:
    assert problems(own(Pay.amount, Pay.n, 2.5)) == []
    assert problems(named(Pay.user, Pay.ok, Pay.at)) == []
    assert problems(picky(Pay.amount)) == []


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (centred, "centred(): gives a row"),
        (running, "running(): gives a row"),
        (one, "one(): function one was given 19 rows and returned an array of shape ()"),
        (pairs, "pairs(): takes 19 rows, but not one alone"),
    ],
)
def test_functions_across_rows_are_told_with_their_line(function: object, told: str) -> None:
    (found,) = problems(function(Pay.amount))  # type: ignore[operator]
    assert told in found
    assert "test_row_functions.py:" in found.split()[0]


def test_a_function_is_told_once_however_often_it_is_called() -> None:
    assert len(problems(centred(Pay.amount) + centred(Pay.amount * 2))) == 1
