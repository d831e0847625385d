"""The quota call: a proxy asks for its share of a service's global rate limit.

One allocator of the network counts for a service, the first by `rendezvous.py`: whoever sees the
same allocators asks the same one. A share is a number of requests that the proxy may let through
within the next `VALID_S`, by whatever road; so requests that go straight to an instance count too.

How far that is from the definition: in any time T at most `burst + per_s * (T + VALID_S)` requests
pass, since a share may be used that long after it was counted; and one more burst when another
allocator begins to count, because the first one died, joined, or is not seen by all. A proxy that
gets no answer lets through its part of the rate, by the number of proxies that it sees.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from overlay.names import ServiceName

QUOTA_PROTOCOL = "/myxo/quota/1.0.0"

VALID_S = 1.0
"""Long enough for a call each few hundred milliseconds from every proxy, short enough that what a
proxy keeps and does not use is soon everybody's again."""

MOST_AT_ONCE = 1000
"""Requests in one share."""


class QuotaRequest(BaseModel):
    """How many requests for a service may I let through?"""

    model_config = ConfigDict(frozen=True, extra="ignore")

    service: Annotated[ServiceName, StringConstraints(max_length=63)]
    wanted: int = Field(ge=1, le=MOST_AT_ONCE)


class Quota(BaseModel):
    """So many, at once.

    Attributes:
        granted: requests that may be let through.
        wait_s: seconds until more may be, if none.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    granted: int = Field(ge=0, le=MOST_AT_ONCE)
    wait_s: float = Field(0.0, ge=0, le=1e6)
