"""Heartbeats: small files by which the layers say how they are, about once a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from headrace.app.locks import holder_of
from headrace.core.time import to_iso

LAYERS = ("compute", "ingest", "serve", "schedule")
"""The layers that run as processes, in the order in which they are started."""

COPY = "copy"
"""The layer that copies what comes from elsewhere into raw topics; it runs where there is such a stream."""
EVERY_LAYER = (*LAYERS, COPY)

STALE_US = 5_000_000
"""A heartbeat older than this is of a layer that hangs or is gone."""


class Heartbeat(msgspec.Struct, frozen=True):
    """How a layer is.

    Attributes:
        layer: its name.
        pid: its process.
        started_us: when it started.
        at_us: when this was written.
        lag: what is waiting for it: events, commits or jobs, by its own measure.
        rate: units of its work per second since the last heartbeat.
        counters: totals since it started, by name.
        address: where it listens, if it does.
        problem: what the last step failed with; empty if all is well.
        python: the interpreter that runs it.
    """

    layer: str
    pid: int
    started_us: int
    at_us: int
    lag: int = 0
    rate: float = 0.0
    counters: dict[str, float] = {}
    address: str = ""
    problem: str = ""
    python: str = ""


def write_heartbeat(state: Path, beat: Heartbeat) -> None:
    """Replace the layer's heartbeat in one step."""
    folder = state / "run"
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{beat.layer}.json.{beat.pid}"
    beside.write_bytes(msgspec.json.encode(beat))
    beside.replace(folder / f"{beat.layer}.json")


def read_heartbeat(state: Path, layer: str) -> Heartbeat | None:
    """The last heartbeat of a layer; None if it never ran here."""
    try:
        return msgspec.json.decode((state / "run" / f"{layer}.json").read_bytes(), type=Heartbeat)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def layer_counters(state: Path) -> dict[str, dict[str, float]]:
    """The totals of each layer that ever ran here, by name."""
    beats = [(layer, read_heartbeat(state, layer)) for layer in EVERY_LAYER]
    return {layer: beat.counters for layer, beat in beats if beat is not None}


def stalled_layers(state: Path, now_us: int) -> dict[str, str]:
    """The layers behind the service that do not run, do not report or cannot go on, each with what is wrong.

    What was never started in this folder may run elsewhere, and is left out.
    """
    found = {}
    for layer in (*LAYERS, COPY):
        beat = None if layer == "serve" else read_heartbeat(state, layer)
        if beat is None:
            continue
        if holder_of(state, layer) is None:
            last = f" ({beat.problem})" if beat.problem else ""
            found[layer] = f"does not run since {to_iso(beat.at_us)}{last}; start it: headrace run {layer}"
        elif now_us - beat.at_us > STALE_US:
            found[layer] = f"process {beat.pid} has not reported since {to_iso(beat.at_us)}"
        elif beat.problem:
            found[layer] = beat.problem
    return found


def as_dict(beat: Heartbeat) -> dict[str, Any]:
    """Plain JSON values."""
    return dict(msgspec.to_builtins(beat))
