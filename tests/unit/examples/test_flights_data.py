"""The real year, counted: what is in it, and when each fact becomes known."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow.compute as pc
import pytest

from examples.flights.data import Flights, load


@pytest.fixture(scope="module")
def year() -> Flights:
    return load()


def test_counts_are_those_of_the_published_data(year: Flights) -> None:
    assert {name: table.num_rows for name, table in {**year.streams, **year.sources}.items()} == {
        "flight": 336_776,
        "departure": 328_521,
        "arrival": 327_346,
        "weather": 26_115,
        "planes": 3_322,
    }
    assert year.flight["tailnum"].null_count == 2_512
    assert pc.count_distinct(year.flight["carrier"]).as_py() == 16
    assert pc.count_distinct(year.flight["dest"]).as_py() == 105


@pytest.mark.parametrize("stream", ["flight", "departure", "arrival"])
def test_ids_are_unique_and_facts_come_in_the_order_in_which_they_become_known(year: Flights, stream: str) -> None:
    table = year.streams[stream]
    name = "flight_id" if stream == "flight" else "movement_id"
    assert pc.count_distinct(table[name]).as_py() == table.num_rows
    known = np.asarray(table["known_us"])
    assert (np.diff(known) >= 0).all()
    assert (known == np.asarray(table["at"].cast("int64"))).all()
    assert all(table[column].null_count == 0 for column in table.column_names if column != "tailnum")


def test_one_flight_followed_from_schedule_to_landing(year: Flights) -> None:
    flight_id = "2013-01-01T10:15Z-UA-1545"
    flight = year.flight.filter(pc.equal(year.flight["flight_id"], flight_id)).to_pylist()
    departure = year.departure.filter(pc.equal(year.departure["flight"], flight_id)).to_pylist()
    arrival = year.arrival.filter(pc.equal(year.arrival["flight"], flight_id)).to_pylist()
    leg = {"carrier": "UA", "origin": "EWR", "dest": "IAH", "tailnum": "N14228"}
    at = datetime(2013, 1, 1, 9, 15, tzinfo=UTC)
    us = 1_357_031_700_000_000
    assert flight == [
        {**leg, "flight_id": flight_id, "leaves": at.replace(hour=10), "distance": 1400.0, "at": at, "known_us": us}
    ]
    assert [(d["movement_id"], d["delay"], d["at"]) for d in departure] == [
        (f"{flight_id}/dep", 2.0, at.replace(hour=10, minute=17))
    ]
    # 10:15 + 2 minutes late + 227 minutes in the air + 20 of taxi
    assert [(a["movement_id"], a["delay"], a["at"]) for a in arrival] == [
        (f"{flight_id}/arr", 11.0, at.replace(hour=14, minute=24))
    ]


def test_every_arrival_departed_before_and_every_departure_was_scheduled(year: Flights) -> None:
    flights = set(year.flight["flight_id"].to_pylist())
    departed = dict(zip(year.departure["flight"].to_pylist(), year.departure["known_us"].to_pylist(), strict=True))
    assert set(departed) <= flights
    arrivals = zip(year.arrival["flight"].to_pylist(), year.arrival["known_us"].to_pylist(), strict=True)
    assert all(departed[flight] < known for flight, known in arrivals)


def test_weather_is_known_at_its_hour_and_its_gaps_are_null(year: Flights) -> None:
    assert year.weather["known_at"].equals(year.weather["time_hour"])
    assert year.weather["pressure"].null_count > 0
    assert pc.count_distinct(pc.binary_join_element_wise(
        year.weather["origin"], pc.cast(year.weather["time_hour"].cast("int64"), "string"), "|"
    )).as_py() == 26_115  # fmt: skip
    assert year.planes["year"].null_count > 0
