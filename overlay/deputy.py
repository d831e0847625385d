"""Whom a daemon speaks for: a person's owner key signs the daemon's peer id.

What a service printed is for its owner, who asks by way of a proxy. The statement names that proxy,
and connections are authenticated as peers, so nobody else can show it.
"""

from pydantic import BaseModel, ConfigDict, ValidationError

from overlay.errors import SettingsInvalid, SignatureInvalid
from overlay.identity import Identity, load_or_create
from overlay.names import PeerId
from overlay.settings import owner_key_path
from overlay.signed import Purpose, Signed, sign


class _Deputy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    peer: PeerId


def appoint(owner: Identity, peer: PeerId) -> Signed:
    """Return the owner's word that `peer` asks for it."""
    return sign(owner, Purpose.DEPUTY, _Deputy(peer=peer).model_dump_json().encode())


def own_deputy(peer: PeerId) -> Signed | None:
    """Return the word of this machine's own user for one of its daemons, if there is a key."""
    if not owner_key_path().exists():
        return None
    try:
        return appoint(load_or_create(owner_key_path()), peer)
    except SettingsInvalid:
        return None


def spoken_for(deputy: Signed | None, peer: PeerId) -> PeerId | None:
    """Return the owner key that `peer` speaks for; None if it shows no such thing."""
    if deputy is None:
        return None
    try:
        deputy.verify(Purpose.DEPUTY)
        named = _Deputy.model_validate_json(deputy.payload).peer
    except (SignatureInvalid, ValidationError):
        return None
    return deputy.signer if named == peer else None
