"""Whose a value, a text or a payload is."""

from __future__ import annotations

import json

import pytest

from headrace.core.keys import entity_encoder
from headrace.core.schema import DType
from headrace.erasure.subject import Subject, emptied, split_parts
from headrace.features.plan import KeyPart

TEXT = Subject("user", "u17", bytes(32))
NUMBER = Subject("user", 17, bytes(32))


@pytest.mark.parametrize("text", ["u17", "from u17", "u17!", "(u17)", "a_u17_b", "mail:u17@x"])
def test_a_text_names_the_key_as_a_word(text: str) -> None:
    assert TEXT.named_in(text)
    assert TEXT.stands_in(text.encode())
    assert TEXT.sent_in(json.dumps({"note": text}).encode())
    assert "u17" not in TEXT.without(text)


@pytest.mark.parametrize("text", ["u170", "au17", "u1 7", "", "U17", "17"])
def test_a_longer_word_is_somebody_else(text: str) -> None:
    assert not TEXT.named_in(text)
    assert not TEXT.stands_in(text.encode())
    assert not TEXT.sent_in(json.dumps({"note": text}).encode())
    assert TEXT.without(text) == text


def test_an_int_is_known_by_its_value_alone() -> None:
    assert NUMBER.sent_in(b'{"user": 17}')
    assert NUMBER.sent_in(b'{"user": "17"}')
    assert not NUMBER.sent_in(b'{"user": 170, "note": "17 pieces", "ok": true}')
    assert not NUMBER.named_in("17")
    assert Subject("user", 1, bytes(32)).sent_in(b'{"ok": true, "n": 1}')
    assert not Subject("user", 1, bytes(32)).sent_in(b'{"ok": true, "n": 10}')


def test_what_is_no_json_is_searched_as_text() -> None:
    assert TEXT.sent_in(b"{broken u17")
    assert not TEXT.sent_in(b"{broken u170")
    assert Subject("user", "jörg", bytes(32)).sent_in(b'{"who": "j\\u00f6rg"}')


def test_a_pseudonym_is_of_the_same_type_and_cannot_be_made_without_the_secret() -> None:
    other = Subject("user", "u17", bytes([1] * 32))
    assert TEXT.pseudonym("o-u17") == TEXT.pseudonym("o-u17") != TEXT.pseudonym("p-u17")
    assert other.pseudonym("o-u17") != TEXT.pseudonym("o-u17")
    assert isinstance(TEXT.pseudonym(5), int)
    assert "u17" not in TEXT.pseudonym("o-u17")


def test_a_composite_key_belongs_to_each_of_its_entities() -> None:
    key = (KeyPart("user", DType.STRING, "user"), KeyPart("shop", DType.STRING, "shop"))
    encode = entity_encoder([DType.STRING, DType.STRING])
    assert TEXT.owns(key, encode(("u17", "m1")))
    assert not TEXT.owns(key, encode(("m1", "u17")))
    assert not TEXT.owns(key, encode(("u1", "7")))
    assert len(split_parts(encode(("u17", "m1")))) == 2
    assert NUMBER.owns((KeyPart("user", DType.INT, "user"),), entity_encoder([DType.INT])((17,)))


def test_texts_in_plain_data_lose_the_key_wherever_they_are() -> None:
    assert emptied(TEXT, {"a u17": ["u17", 17, {"b": "u170"}]}) == {"a [erased]": ["[erased]", 17, {"b": "u170"}]}
