"""Real services of the tests: where they are, and what happens where one is missing."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NoReturn

import pytest

_FOLDER = Path(__file__).parents[1] / ".services"


def address(service: str) -> str:
    """The URL of a running service: HEADRACE_TEST_<SERVICE>, or what `make services` wrote; else `missing`."""
    given = os.environ.get(f"HEADRACE_TEST_{service.upper()}")
    if given:
        return given
    written = _FOLDER / f"{service}.url"
    if written.is_file():
        return written.read_text().strip()
    missing(service, f"no {service} is running here: start it with: tools/services.sh start {service}")


def missing(service: str, reason: str) -> NoReturn:
    """Skip the test with the reason, or fail it where HEADRACE_REQUIRE_SERVICES names the service."""
    if service in re.split(r"[\s,]+", os.environ.get("HEADRACE_REQUIRE_SERVICES", "")):
        pytest.fail(f"{reason}; HEADRACE_REQUIRE_SERVICES demands one")
    pytest.skip(reason)
