"""Drift: have the features, or the scores, moved away from what the model was trained on?

The figure is the population stability index; how it is binned and smoothed stands in `registry.profile`. Columns that
can only drift are never watched: absolute times have no profile, and columns computed from the calendar are left out.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from headrace.core.columns import FloatArray
from headrace.features.plan import ViewPlan
from headrace.registry.profile import ColumnBlock, Profile, psi, psi_of_scores

MIN_ROWS = 500
"""With fewer rows chance alone reaches PSI values that look like drift."""

THRESHOLD = 0.2


class Drift(msgspec.Struct, frozen=True):
    """What one look found.

    Attributes:
        rows: how many live rows were looked at.
        enough: False if they were fewer than needed; then nothing was computed.
        psi: of each watched column.
        score_psi: of the model's scores; None without scores or their profile.
        over: watched columns above the threshold, the farthest first.
        threshold: what they were compared with.
    """

    rows: int
    enough: bool
    psi: dict[str, float]
    score_psi: float | None
    over: tuple[str, ...]
    threshold: float

    @property
    def drifted(self) -> bool:
        """True if a watched column, or the score, is above the threshold."""
        return bool(self.over) or (self.score_psi is not None and self.score_psi > self.threshold)

    @property
    def in_words(self) -> str:
        """One line for people."""
        if not self.enough:
            return f"too few rows to tell: {self.rows}"
        worst = ", ".join(f"{name} {self.psi[name]:.2f}" for name in self.over[:5])
        more = f" and {len(self.over) - 5} more" if len(self.over) > 5 else ""
        score = "" if self.score_psi is None else f"; score {self.score_psi:.2f}"
        columns = f"{len(self.over)} of {len(self.psi)} columns above PSI {self.threshold:g}"
        return f"{columns}{': ' if worst else ''}{worst}{more}{score}"


def watched_columns(view: ViewPlan) -> tuple[str, ...]:
    """Visible columns of a view that can drift: not computed from the calendar. (Those without a profile drop out.)"""
    return tuple(column.name for column in view.visible if not column.calendar)


def find_drift(
    profile: Profile,
    block: ColumnBlock,
    watched: Collection[str],
    scores: FloatArray | None = None,
    *,
    threshold: float = THRESHOLD,
    min_rows: int = MIN_ROWS,
) -> Drift:
    """Compare live rows with the training profile.

    Args:
        profile: of the training rows, as the registry keeps it with the version.
        block: features as they were served.
        watched: columns to look at, from `watched_columns`.
        scores: float64 [n] of the same rows, or None.
        threshold: PSI above which a column has drifted.
        min_rows: below this nothing is computed.
    """
    if len(block) < min_rows:
        return Drift(len(block), False, {}, None, (), threshold)
    found = psi(profile, block, frozenset(watched))
    over = sorted((name for name, value in found.items() if value > threshold), key=lambda name: (-found[name], name))
    score_psi = None if scores is None or profile.score is None else psi_of_scores(profile.score, scores)
    return Drift(len(block), True, found, score_psi, tuple(over), threshold)
