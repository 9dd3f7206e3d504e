"""Training rows as they were served: logged features beside the truth that came back."""

from __future__ import annotations

import numpy as np

from headrace.core.errors import TrainingError
from headrace.core.events import concat_columns
from headrace.features.plan import ModelPlan
from headrace.monitoring.truth import TruthTracker
from headrace.retrieval.past import Past
from headrace.retrieval.rows import concat_features
from headrace.training.dataset import TrainingSet


def served_set(model: ModelPlan, tracker: TruthTracker, past: Past, since_us: int | None, now_us: int) -> TrainingSet:
    """Scored requests in `[since_us, now_us)` whose wait has passed, with the label that is known now.

    Without truth a request gets the label's default, or is left out and counted. Raises TrainingError if nothing was
    scored in that time.
    """
    chunks = tracker.window(-(2**62) if since_us is None else since_us, now_us)
    if not chunks:
        raise TrainingError(f"model {model.name}: nothing was scored in the time to train on")
    t = np.concatenate([batch.t_us for batch, _, _, _ in chunks])
    labels = np.concatenate([labels for _, labels, _, _ in chunks])
    done = t + model.label.wait_us <= now_us
    if model.label.has_default:
        labels = np.where(np.isnan(labels), float(model.label.default), labels)
    use = done & ~np.isnan(labels)
    block = concat_features([batch.features for batch, _, _, _ in chunks])
    names = chunks[0][0].request
    request = {name: concat_columns([batch.request[name] for batch, _, _, _ in chunks]).take(use) for name in names}
    return TrainingSet(
        block.take(use),
        labels[use],
        t[use],
        request,
        int(len(t) - done.sum()),
        int((done & np.isnan(labels)).sum()),
        past.computed(),
    )
