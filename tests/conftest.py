"""Settings of the whole suite: one fixed Hypothesis profile for CI, a wider one for the night."""

from __future__ import annotations

import multiprocessing
import os
from datetime import timedelta

from hypothesis import HealthCheck, Phase, settings

# Tests start some 100 processes; they are forked of a server that has imported this once.
multiprocessing.set_forkserver_preload(
    [
        *(
            f"tests.conformance.test_{name}"
            for name in ("catalog", "eventlog", "offline_store", "online_store", "registry")
        ),
        *(
            f"tests.recovery.{name}"
            for name in ("derived_shop", "shop", "test_backfill", "test_erase_kill", "test_letters_kill")
        ),
    ]
)

# The first call of a compiled kernel takes seconds, so no example has a deadline and slow first draws are no fault.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}

settings.register_profile("dev", max_examples=50, **_COMMON)
settings.register_profile("ci", max_examples=100, derandomize=True, database=None, **_COMMON)
settings.register_profile("nightly", max_examples=5_000, **{**_COMMON, "deadline": timedelta(minutes=5)})
# For tools/mutants.py: the examples of CI; that something fails is all it asks, so nothing is made smaller.
settings.register_profile(
    "mutants",
    max_examples=100,
    derandomize=True,
    database=None,
    **{**_COMMON, "phases": (Phase.explicit, Phase.generate)},
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))
