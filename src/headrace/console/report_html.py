"""Pieces of HTML that are escaped by construction: text goes in as `str`, only `tag` makes markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_VOID = frozenset({"meta", "link", "br", "hr"})


class Html(str):
    """Text that is markup already. Only made from parts that were escaped, or from this package's own files."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: str | bool) -> Html:
    """Return an element. Children that are no `Html` are escaped, None is left out.

    Attribute names lose a trailing underscore, others become hyphens (`class_`, `aria_label`); True makes a bare
    attribute, False leaves it out.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is not False:
            shown = key.rstrip("_").replace("_", "-")
            parts.append(f" {shown}" if value is True else f' {shown}="{escape(value)}"')
    parts.append(">")
    if name not in _VOID:
        parts += [join(child for child in children if child is not None), f"</{name}>"]
    return Html("".join(parts))


def join(parts: Iterable[str]) -> Html:
    """One piece of markup from many; text among them is escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = (), class_: str = "") -> Html:
    """A table in a box that scrolls sideways by itself; `numeric` columns are set to the right."""
    right = frozenset(numeric)

    def cells(kind: str, row: Sequence[str]) -> Html:
        scope: dict[str, str | bool] = {"scope": "col"} if kind == "th" else {}
        return join(tag(kind, cell, class_="number" if i in right else False, **scope) for i, cell in enumerate(row))

    body = tag("tbody", *(tag("tr", cells("td", row)) for row in rows))
    inner = tag("table", tag("thead", tag("tr", cells("th", head))), body, class_=class_ or False)
    return tag("div", inner, class_="scroll", tabindex="0")


def compact(number: float) -> str:
    """A short form of a large number: 984, 12.3 k, 1.04 M, 19.4 M, 2.10 G."""
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= limit:
            scale = 1e3 if sign == "k" else limit
            return f"{number / scale:.{1 if number / scale >= 10 else 2}f} {sign}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Seconds for people: "0.4 s", "48 s", "2 min 14 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def signed(number: float) -> str:
    """A difference with four digits and a sign: +0.0123, −0.0040."""
    return f"{number:+.4f}".replace("-", "−")


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 promotion", "12 promotions"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
