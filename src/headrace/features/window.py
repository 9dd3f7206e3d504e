"""Windows of aggregations: which events they take, and in which steps their lower edge moves (design 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.core.time import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, US_PER_SECOND, format_duration, parse_duration

_DEFAULT_HOPS = (
    (US_PER_HOUR, 0),
    (US_PER_DAY, 5 * US_PER_MINUTE),
    (30 * US_PER_DAY, US_PER_HOUR),
)
_NICE = tuple(
    unit * count
    for unit, counts in (
        (US_PER_SECOND, (1, 5, 10, 15, 30)),
        (US_PER_MINUTE, (1, 2, 5, 10, 15, 20, 30)),
        (US_PER_HOUR, (1, 2, 3, 4, 6, 8, 12)),
        (US_PER_DAY, (1, 7)),
    )
    for count in counts
)


@dataclass(frozen=True, slots=True)
class Window:
    """A resolved window. `window_us` None is the whole lifetime; a hop equal to the resolution is exact."""

    window_us: int | None
    hop_us: int
    delay_us: int


def resolve_window(window: str | None, hop: str | None, delay: str | None, resolution_us: int) -> Window | str:
    """The window in µs, with the default hop if none is named; or what is wrong with it, and the cures."""
    try:
        window_us = None if window is None else parse_duration(window)
        named_us = None if hop in (None, "exact") else parse_duration(str(hop))
        delay_us = _delay(delay)
    except ValueError as error:
        return str(error)
    except (TypeError, AttributeError):
        named: dict[str, object] = {"window": window, "hop": hop, "delay": delay}
        wrong = [f"{name}={value!r}" for name, value in named.items() if not isinstance(value, str | None)]
        return f'{", ".join(wrong)}: write durations as texts, such as "7d"'
    if window_us is None:
        if hop is not None:
            return "a hop needs a window; without a window a feature is over the whole lifetime"
        return Window(None, resolution_us, delay_us)
    if window_us <= 0 or (named_us is not None and named_us <= 0):
        return "a window and a hop must be longer than nothing"
    if window_us % resolution_us:
        return f'window "{window}" is no multiple of the resolution "{format_duration(resolution_us)}"'
    hop_us = _default_hop(window_us, resolution_us) if hop is None else (named_us or resolution_us)
    what = "hop" if hop is not None else "the default hop"
    problem = _hop_problem(window_us, hop_us, resolution_us, what, f'window "{window}"')
    return problem or Window(window_us, hop_us, delay_us)


def _delay(delay: str | None) -> int:
    if delay is None:
        return 0
    if delay.strip().startswith("-"):
        raise ValueError(f'delay "{delay}" is negative: a feature cannot know the future; use "0s" or longer')
    return parse_duration(delay)


def _default_hop(window_us: int, resolution_us: int) -> int:
    for longest_us, hop_us in _DEFAULT_HOPS:
        if window_us <= longest_us:
            return max(hop_us, resolution_us)
    return max(US_PER_DAY, resolution_us)


def _hop_problem(window_us: int, hop_us: int, resolution_us: int, what: str, window: str) -> str | None:
    hop = f'{what} "{format_duration(hop_us)}"'
    if window_us % hop_us:
        return f"{hop} does not divide {window}; use {_cures(window_us, hop_us, resolution_us)}"
    if hop_us % resolution_us:
        resolution = format_duration(resolution_us)
        return f'{hop} is no multiple of the resolution "{resolution}"; use {_cures(window_us, hop_us, resolution_us)}'
    return None


def _cures(window_us: int, hop_us: int, resolution_us: int) -> str:
    fitting = [nice for nice in _NICE if window_us % nice == 0 and nice % resolution_us == 0 and nice < window_us]
    below = [nice for nice in fitting if nice < hop_us][-1:]
    above = [nice for nice in fitting if nice > hop_us][:1]
    names = [f'"{format_duration(nice)}"' for nice in below + above]
    return ", ".join(names) + (" or " if names else "") + 'hop="exact"'
