"""What the network's admin says to every peer: read, and believed only if the admin signed it."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from overlay.errors import SignatureInvalid, StatementRefused
from overlay.names import PeerId
from overlay.signed import Purpose, Signed

LAST_VERSION = 2**53
"""Every JSON reader reads a whole number up to here as it was written."""

YEAR_9999 = 253_370_764_800
"""The last year that has a date."""

M = TypeVar("M", bound=BaseModel)


def read_statement(
    signed: Signed, admin: PeerId | None, purpose: Purpose, kind: type[M], max_bytes: int
) -> M:
    """Return the statement that `signed` carries, if it is one of `admin`.

    Raises:
        StatementRefused: it is none, or somebody else's, or no admin is known here.
    """
    if admin is None:
        raise StatementRefused("this peer was not told the network's admin key (--admin)")
    if signed.signer != admin:
        raise StatementRefused(
            f"it is signed by {signed.signer[:64]}, and the network's admin is {admin}"
        )
    if len(signed.payload) > max_bytes:
        raise StatementRefused(f"it has {len(signed.payload)} bytes; {max_bytes} are allowed")
    try:
        signed.verify(purpose)
        return kind.model_validate_json(signed.payload)
    except SignatureInvalid as exc:
        raise StatementRefused(str(exc)) from exc
    except ValidationError as exc:
        raise StatementRefused(f"it cannot be read: {exc.errors()[0]['msg']}") from exc
