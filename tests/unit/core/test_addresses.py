"""An address in a message tells where a part is, and no secret."""

from __future__ import annotations

import pytest

from headrace.core.addresses import shown


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("postgresql://u:secret@db:5432/dwh", "postgresql://db:5432/dwh"),
        ("postgresql://u:sec@r/et@db/dwh?sslmode=require", "postgresql://db/dwh"),
        ("postgresql://u:sec?ret@db/dwh", "postgresql://..."),
        ("postgresql://db/dwh?user=u&password=secret", "postgresql://db/dwh"),
        ("postgresql://db/dwh?user=u@host&password=secret", "postgresql://..."),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("embedded", "embedded"),
    ],
)
def test_what_is_shown(address: str, told: str) -> None:
    assert shown(address) == told
