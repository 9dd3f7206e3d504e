"""Dead letters where raw topics are Kafka's, whose appends are single messages."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.app.letters import letters_of
from headrace.core.errors import LogError
from headrace.engines.stream.letters import Action
from headrace.ingestion.letters import DeadLetters
from tests.e2e.shop import FEATURES, now, orders, write_shop
from tests.services import address

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


class Cut(DeadLetters):
    """Dies between publishing and recording."""

    def _record(self, action: Action) -> None:
        if action.done:
            raise LogError("cut off")
        super()._record(action)


def test_letters_are_published_once_on_kafka_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{address('kafka')}/shop-{uuid.uuid4().hex}"
    folder = write_shop(tmp_path / "shop")
    (folder / "headrace.toml").write_text(f'sync = false\nlog = "{url}"\npartitions = 2\n', encoding="utf-8")
    rows: list[Any] = orders(30, now() - timedelta(minutes=1), users=5)
    with hr.connect(folder) as project:
        project.publish("order", [row | {"colour": "red"} for row in rows])
        project.settle()
        assert len(project.dead_letters()) == 30
        first, *_ = project.dead_letters(limit=1)
        fixed = project.dead_letters().fix(first.id, remove=["colour"])
        assert fixed.mark is not None
        assert fixed.mark.published is not None
        assert project.dead_letters().get(first.id) == fixed
    text = FEATURES.replace('hr.field("euros")', 'hr.field("euros")\n    colour: hr.Field[str | None]')
    (folder / "features.py").write_text(text, encoding="utf-8")
    with hr.connect(folder) as project:
        project.apply()
        with monkeypatch.context() as patch:
            patch.setattr("headrace.app.letters.DeadLetters", Cut)
            cut_off = project.dead_letters()
        with pytest.raises(LogError, match="cut off"):
            cut_off.replay()
        assert letters_of(project.parts).count() == (30, 0)
        assert project.dead_letters().replay().published == 0
        found = project.dead_letters(state="replayed", limit=100)
        assert len(found) == 29
        marks = [project.dead_letters().get(letter.id).mark for letter in found]
        assert len({mark.published for mark in marks if mark is not None and mark.published}) == 29
        project.settle()
        assert sum(project.get("spend", user=f"u{n}").n["7d"] for n in range(5)) == 30
