"""An hour before its scheduled departure: how likely is a flight out of New York to arrive over 30 minutes late?"""

from __future__ import annotations

from datetime import datetime

from lightgbm import LGBMClassifier

import headrace as hr

Carrier, Airport, Aircraft = hr.Entity("carrier"), hr.Entity("airport"), hr.Entity("aircraft")
NY = "America/New_York"


class Leg(hr.Event, abstract=True):
    """What flights, departures and arrivals share."""

    carrier: hr.Field[str] = hr.key(Carrier)
    origin: hr.Field[str] = hr.key(Airport)
    dest: hr.Field[str] = hr.key(Airport)
    tailnum: hr.Field[str | None] = hr.key(Aircraft)
    at: hr.Field[datetime] = hr.event_time()


class Flight(Leg):
    """A scheduled flight, one hour before it leaves: the moment the model is asked."""

    flight_id: hr.Field[str] = hr.id()
    leaves: hr.Field[datetime] = hr.field("scheduled departure")
    distance: hr.Field[float] = hr.field("miles")


class Moved(Leg, abstract=True):
    """An aircraft came off or on the gate."""

    movement_id: hr.Field[str] = hr.id()
    flight: hr.Field[str] = hr.key(Flight)
    delay: hr.Field[float] = hr.field("minutes behind schedule; negative if early")


class Departure(Moved):
    """Off the gate."""


class Arrival(Moved):
    """On the gate: the truth."""


class ByCarrier(hr.FeatureGroup, key=Arrival.carrier):
    """How the airline is doing."""

    n = hr.count(window=["3h", "1d", "7d"])
    delay = hr.mean(Arrival.delay, window=["3h", "1d", "7d"])
    worst = hr.max(Arrival.delay, window=["3h", "1d", "7d"])
    late = hr.share(Arrival.delay > 30, window=["3h", "1d", "7d"])


class ByOrigin(hr.FeatureGroup, key=Departure.origin):
    """How the airport of departure is doing."""

    n = hr.count(window=["30m", "2h", "1d"])
    delay = hr.mean(Departure.delay, window=["30m", "2h", "1d"])
    worst = hr.max(Departure.delay, window=["30m", "2h", "1d"])
    late = hr.share(Departure.delay > 30, window=["30m", "2h", "1d"])
    rush = n["30m"] / n["1d"]


class ByDest(hr.FeatureGroup, key=Arrival.dest):
    """How arrivals at the destination are doing."""

    delay = hr.mean(Arrival.delay, window=["3h", "1d", "7d"])
    late = hr.share(Arrival.delay > 30, window=["3h", "1d", "7d"])


class Route(hr.FeatureGroup, key=(Arrival.origin, Arrival.dest)):
    """How the route is doing, whoever flies it."""

    delay = hr.mean(Arrival.delay, window=["1d", "7d", "28d"])
    late = hr.share(Arrival.delay > 30, window=["1d", "7d", "28d"])


class CarrierAtOrigin(hr.FeatureGroup, key=(Departure.carrier, Departure.origin)):
    """How the airline gets away from this airport."""

    n = hr.count(window=["2h", "1d", "7d"])
    delay = hr.mean(Departure.delay, window=["2h", "1d", "7d"])


class Incoming(hr.FeatureGroup, key=Arrival.tailnum):
    """The aircraft's own day so far: the delay it brings along."""

    last, landed = hr.last(Arrival.delay), hr.last(Arrival.at)
    legs = hr.count(window=["12h", "1d"])
    worst = hr.max(Arrival.delay, window="1d")


class Weather(
    hr.Table,
    schedule="@hourly",
    ttl="3h",
    source=hr.SQL(
        """select origin as airport, wind_speed, precip, pressure, visib, cast(time_hour as timestamptz) as at
        from weather"""
    ),
    checks=[
        hr.RowCount(min=1),
        hr.UniqueKey(),
        hr.NullShare("visib", max=0.5),
        hr.InRange("wind_speed", min=0, max=150),
    ],
):
    """Hourly observations at the airports of departure: mph, inches, millibar, miles."""

    airport: hr.Field[str] = hr.key(Airport)
    wind_speed: hr.Field[float | None]
    precip: hr.Field[float | None]
    pressure: hr.Field[float | None]
    visib: hr.Field[float | None]
    at: hr.Field[datetime] = hr.event_time()


class Plane(
    hr.Table,
    schedule="@daily",
    source=hr.SQL("select tailnum, year as built from planes"),
    checks=[hr.RowCount(min=1), hr.UniqueKey(), hr.NullShare("built", max=0.5)],
):
    """When an aircraft was built. It has no event time: it is always true."""

    tailnum: hr.Field[str] = hr.key(Aircraft)
    built: hr.Field[int | None]


class Now(hr.OnRequest):
    """Calendar, and comparisons of features."""

    hour, weekday, month = Flight.leaves.hour(NY), Flight.leaves.weekday(NY), Flight.leaves.month(NY)
    on_ground = (Flight.at - Incoming.landed).hours()
    today = CarrierAtOrigin.delay["2h"] - CarrierAtOrigin.delay["7d"]
    against = Route.delay["7d"] - ByCarrier.delay["7d"]


view = hr.FeatureView(
    "flight",
    request=Flight,
    features=[
        ByCarrier,
        ByOrigin,
        ByDest,
        Route,
        CarrierAtOrigin,
        Incoming,
        Weather.of(Flight.origin),
        Weather.of(Flight.dest),
        Plane,
        Now,
        Flight.distance,
    ],
)

late = hr.Model(
    "late",
    view=view,
    estimator=LGBMClassifier(
        n_estimators=32,
        num_leaves=24,
        learning_rate=0.15,
        min_child_samples=50,
        colsample_bytree=0.4,
        max_bin=63,
        subsample_for_bin=10_000,
        n_jobs=1,
        verbose=-1,
        random_state=7,
        deterministic=True,
        force_row_wise=True,
    ),
    metric="average_precision",
    train_on="60d",
    label=hr.Label(Arrival.delay > 30, wait="1d"),  # no default: a flight that never lands is never a row
    retrain=[hr.Every("7d"), hr.OnDrift(psi=0.2), hr.OnDecay(drop=0.05)],
    promote=hr.Better(on="7d", confidence=0.95),
)
