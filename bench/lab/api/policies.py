"""The route of selection policies: what a service's definition and a report's plan may name."""

from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel

from overlay.balancing import HASHING, POLICIES, WEIGHTED, spellings

SENTENCES: Final[Mapping[str, str]] = {
    "peak_ewma": "Of two among the nearest, by RTT and measured service time, the less busy one.",
    "round_robin": "Each instance in turn.",
    "weighted_round_robin": "Each instance in turn, the heavier more often, spread evenly.",
    "random": "Any instance.",
    "weighted_random": "Any instance, the heavier the likelier.",
    "least_request": "Of two drawn at random, the one with fewer requests in flight.",
    "weighted_least_request": (
        "Of two drawn by weight, the one with the most weight over its requests in flight."
    ),
    "ring_hash": "The same instance for the same key, by a ring.",
    "maglev": "The same instance for the same key, by a table: shares are more even.",
    "static": "What the routing table says, and nothing else.",
    "original_destination": "The instance that the request names in X-Myxo-Destination.",
}

router = APIRouter(tags=["network"])


class PolicyShown(BaseModel):
    """A selection policy.

    Attributes:
        name: in a definition.
        description: what it does, in a sentence.
        spellings: other names that are understood.
        weighted: weights change what it does.
        hashes: it goes by what the definition's `hash` names.
        default: it is used where a definition names none.
    """

    name: str
    description: str
    spellings: list[str]
    weighted: bool
    hashes: bool
    default: bool


@router.get("/policies")
async def policies() -> list[PolicyShown]:
    """List the selection policies of the proxies, by which a service's requests are spread."""
    return [
        PolicyShown(
            name=name,
            description=SENTENCES[name],
            spellings=spellings(name),
            weighted=name in WEIGHTED,
            hashes=name in HASHING,
            default=name == POLICIES[0],
        )
        for name in POLICIES
    ]
