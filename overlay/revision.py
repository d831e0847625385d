"""A revision: what a name meant from its number on, said and signed by the name's owner.

The number is inside the signed bytes, so that an old revision can never be shown as a new one: the
registry takes revision n + 1 only where n is the newest. A revision without a spec deletes the
service; the next one may come from any key.
"""

from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from overlay.errors import InvalidName, MalformedMessage
from overlay.identity import Identity
from overlay.names import PeerId, ServiceName, service_name
from overlay.signed import Purpose, Signed, sign
from overlay.spec import ServiceSpec

MAX_REVISION_BYTES = 64 * 1024
"""A definition is names and numbers; 64 KiB leaves room for 256 environment variables."""


_YEAR_9999 = 253_370_764_800
"""The last year that has a date."""


class Revision(BaseModel):
    """What the owner signs.

    Attributes:
        number: 1 for the first revision of a name, then one more each time.
        spec: None says that the service is deleted.
        editors: further owner keys that may add revisions of this name.
        created_at: seconds since the epoch by the owner's clock, for people only.
        takes_over: the number of an earlier revision, whose instances serve this one as they are
            (`generation.py`); 0: it has instances of its own.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    name: ServiceName
    number: int = Field(ge=1)
    spec: ServiceSpec | None
    editors: tuple[PeerId, ...] = Field((), max_length=32)
    created_at: float = Field(0.0, ge=0, le=_YEAR_9999)
    takes_over: int = Field(0, ge=0)

    @property
    def generation(self) -> int:
        """The number of the revision whose instances serve this one."""
        return self.takes_over or self.number

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.takes_over >= self.number:
            raise ValueError("a revision takes over the instances of an earlier one")
        return self


@dataclass(frozen=True, slots=True)
class SignedRevision:
    """A verified revision with the signed bytes that prove it.

    Make one with `sign`, `verified` or `from_json`: there is no unverified one.
    """

    revision: Revision
    signed: Signed

    @property
    def owner(self) -> PeerId:
        """The owner key that signed it."""
        return self.signed.signer

    def to_json(self) -> bytes:
        """Return the bytes that `from_json` reads back."""
        return self.signed.model_dump_json().encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Return the revision in `data`, verified.

        Raises:
            MalformedMessage: it is no revision, or is over the size limit.
            SignatureInvalid: its signature is wrong.
        """
        if len(data) > 2 * MAX_REVISION_BYTES:
            raise MalformedMessage(f"a revision of {len(data)} bytes is over the limit")
        try:
            return cls.verified(Signed.model_validate_json(data))
        except ValidationError as exc:
            raise MalformedMessage(f"not a signed revision: {exc.errors()[0]['msg']}") from exc

    @classmethod
    def verified(cls, signed: Signed) -> Self:
        """Return the revision that `signed` carries, its signature checked.

        Raises:
            MalformedMessage: the payload is no revision, or is over the size limit.
            SignatureInvalid: its signature is wrong.
        """
        if len(signed.payload) > MAX_REVISION_BYTES:
            raise MalformedMessage(
                f"the definition has {len(signed.payload)} bytes; {MAX_REVISION_BYTES} are allowed"
            )
        signed.verify(Purpose.REVISION)
        try:
            revision = Revision.model_validate_json(signed.payload)
            service_name(revision.name)
        except (ValidationError, InvalidName) as exc:
            raise MalformedMessage(f"not a revision: {exc}") from exc
        return cls(revision, signed)

    @classmethod
    def sign(cls, owner: Identity, revision: Revision) -> Self:
        """Return `revision` signed by its owner's key."""
        payload = revision.model_dump_json(exclude_defaults=True).encode()
        return cls(revision, sign(owner, Purpose.REVISION, payload))
