"""The batch engine against its kit."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from headrace.core.time import Clock
from headrace.engines.batch.base import BatchEngine
from headrace.engines.batch.duckdb import DuckDBBatchEngine
from headrace.testing.batch_engine import BatchEngineTests


class TestDuckDBBatchEngine(BatchEngineTests):
    adapter = "DuckDB"

    def open(self, sources: Mapping[str, pa.Table], clock: Clock) -> BatchEngine:
        return DuckDBBatchEngine(sources, clock)
