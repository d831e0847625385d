"""Who may command load hosts: whoever a person's key says so of, if the host trusts that key.

Custom clients are Python, so whoever commands a load host can run anything on it. A command comes
over the overlay, which says which peer sends it; the peer brings a statement, signed by the key of
the person that it works for, that it may. Nobody else can use that statement, because nobody else
can be that peer, and it ends by itself.
"""

from collections.abc import Collection

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.lab.errors import LabError
from overlay.errors import SignatureInvalid
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.signed import Purpose, Signed, sign

WARRANT_S = 3600.0
"""How long a statement holds; who commands for longer makes another."""

SKEW_S = 300.0
"""By which two machines' clocks may differ."""


class NotTrusted(LabError):
    """A command does not come from whom this host obeys."""


class Warrant(BaseModel):
    """That a peer may command load hosts.

    Attributes:
        commander: the peer.
        until: when it ends, in seconds since 1970.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    commander: PeerId
    until: float


def warrant(owner: Identity, commander: PeerId, now: float) -> Signed:
    """Return a person's statement that a peer may command load hosts from now on."""
    said = Warrant(commander=commander, until=now + WARRANT_S)
    return sign(owner, Purpose.LAB, said.model_dump_json().encode())


def check(signed: Signed, commander: PeerId, trusted: Collection[PeerId], now: float) -> None:
    """Return if `commander` shows that somebody who is trusted lets it command.

    Raises:
        NotTrusted: saying why not.
    """
    if signed.signer not in trusted:
        raise NotTrusted(
            f"this load host does not obey the owner key {signed.signer}: it obeys the network's "
            f"admin and its own machine's user; `myxo allow {signed.signer}` there adds a key"
        )
    try:
        signed.verify(Purpose.LAB)
        said = Warrant.model_validate_json(signed.payload)
    except (SignatureInvalid, ValidationError) as exc:
        raise NotTrusted("what should say who lets this peer command is no such statement") from exc
    if said.commander != commander:
        raise NotTrusted(f"that statement lets {said.commander} command, not {commander}")
    if not now - SKEW_S < said.until < now + WARRANT_S + SKEW_S:
        raise NotTrusted("that statement has ended, or the two machines' clocks differ by minutes")
