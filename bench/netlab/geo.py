"""How far cities are from each other, for packets.

Light in glass makes 200 km in a millisecond, cables do not follow great circles, and each end has a
first mile: delay = `STRETCH` × distance ÷ 200 km/ms + `ACCESS_S` at each end. A stretch of 1.5
gives London–New York 86 ms there and back, Frankfurt–Singapore 156, Frankfurt–Sydney 249. Traffic
that takes a detour, as between South America and Australia, is slower than this says.
"""

from dataclasses import dataclass
from math import asin, cos, radians, sin, sqrt

EARTH_RADIUS_KM = 6371.0
KM_PER_S_IN_GLASS = 200_000.0
STRETCH = 1.5
ACCESS_S = 0.0005


@dataclass(frozen=True, slots=True)
class Place:
    """A place on Earth, in degrees north and east."""

    latitude: float
    longitude: float


CITIES = {
    "frankfurt": Place(50.11, 8.68),
    "new-york": Place(40.71, -74.01),
    "singapore": Place(1.35, 103.82),
    "sao-paulo": Place(-23.55, -46.63),
    "tokyo": Place(35.68, 139.69),
    "san-francisco": Place(37.77, -122.42),
    "sydney": Place(-33.87, 151.21),
    "london": Place(51.51, -0.13),
    "johannesburg": Place(-26.20, 28.05),
    "mumbai": Place(19.08, 72.88),
    "dallas": Place(32.78, -96.80),
    "paris": Place(48.86, 2.35),
    "seoul": Place(37.57, 126.98),
    "toronto": Place(43.65, -79.38),
    "stockholm": Place(59.33, 18.07),
    "santiago": Place(-33.45, -70.67),
    "madrid": Place(40.42, -3.70),
    "hong-kong": Place(22.32, 114.17),
    "lagos": Place(6.52, 3.38),
    "warsaw": Place(52.23, 21.01),
    "los-angeles": Place(34.05, -118.24),
    "dubai": Place(25.20, 55.27),
    "amsterdam": Place(52.37, 4.90),
    "mexico-city": Place(19.43, -99.13),
}
"""In an order in which the first few are spread over the world."""


def distance_km(one: Place, other: Place) -> float:
    """Return the great-circle distance, by the haversine formula."""
    north, south = radians(one.latitude), radians(other.latitude)
    between = radians(other.longitude - one.longitude)
    half_chord = sin((south - north) / 2) ** 2 + cos(north) * cos(south) * sin(between / 2) ** 2
    return 2 * EARTH_RADIUS_KM * asin(min(1.0, sqrt(half_chord)))


def delay_s(one: Place, other: Place) -> float:
    """Return the one-way delay between two places, in seconds."""
    return STRETCH * distance_km(one, other) / KM_PER_S_IN_GLASS + 2 * ACCESS_S
