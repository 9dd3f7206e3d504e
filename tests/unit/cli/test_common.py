"""What a terminal would obey is written out: events and names may hold it."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from headrace.cli.common import Session, command, shown_plainly
from headrace.core.errors import NotFound

TITLE, CSI, TURNED = "\x1b]0;mine\x07", "\x9b2J", "\u202egnp.exe\u2066"


def test_text_stays_as_it_is_but_for_what_is_obeyed() -> None:
    plain = 'naïve  \t日本 🙂 "x" \\u001b\nnext line'
    assert shown_plainly(plain) == plain
    assert shown_plainly(f"a{TITLE}b{CSI}{TURNED}\r\x7f\x00") == (
        "a\\u001b]0;mine\\u0007b\\u009b2J\\u202egnp.exe\\u2066\\u000d\\u007f\\u0000"
    )


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--fail"]])
def test_no_command_says_it(arguments: list[str]) -> None:
    hostile = TITLE + CSI + TURNED

    @click.group()
    def group() -> None:
        """Commands."""

    @command(group, "tell", "tell")
    @click.option("--fail", is_flag=True)
    def tell(session: Session, fail: bool) -> None:
        """Tell."""
        if fail:
            raise NotFound(hostile)
        session.say(hostile, value=hostile)

    done = CliRunner().invoke(group, ["tell", *arguments], color=True)
    assert not {*hostile} & {*"\x1b\x07\x9b\u202e\u2066"} & {*done.output}, repr(done.output)
    if arguments == ["--json"]:
        assert json.loads(done.output) == {"value": hostile}
