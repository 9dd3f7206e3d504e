"""The HTTP API asked for what its own OpenAPI document allows, and for what it does not: it never fails by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode

import headrace as hr
from headrace.app.erasures import Erasures
from headrace.serving.http import serving
from tests.e2e.shop import write_shop
from tests.unit.serving.shop import fitted, opened
from tests.unit.serving.test_access import letters_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document of a real service of a shop with payments and a champion; it erases for another shop, which no
    supervisor runs."""
    with (
        opened(tmp_path_factory.mktemp("fuzz")) as shop,
        hr.connect(write_shop(tmp_path_factory.mktemp("erases") / "shop")) as project,
    ):
        project.ensure_applied()
        shop.pay(("p1", "ann", 10.0, 1), ("p2", "ann", 20.0, 2))
        shop.register(fitted(25))
        with serving(shop.service(letters=letters_of(shop), erasures=Erasures(project.parts))) as port:
            yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_whatever_is_sent_is_answered_or_refused(api: Any, mode: GenerationMode) -> None:
    asked: set[str] = set()
    for found in api.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=max(settings().max_examples // 4, 10), suppress_health_check=list(HealthCheck))
        def answered(case: Case) -> None:
            reply = case.call()
            assert reply.status_code < 500 or reply.status_code == 503, f"{case.as_curl_command()}: {reply.text}"

        try:
            answered()
        except Unsatisfiable:  # nothing about this operation can be wrong
            continue
        asked.add(operation.label)
    assert {"POST /v1/events", "POST /v1/features/{view}", "POST /v1/models/{model}/score"} & asked, asked
