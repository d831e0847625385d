import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from overlay.errors import SignatureInvalid
from overlay.identity import Identity
from overlay.signed import Purpose, Signed, sign

OWNER = Identity.generate()


@given(payload=st.binary(max_size=300), purpose=st.sampled_from(Purpose))
def test_what_is_signed_travels_as_json_and_still_verifies(
    payload: bytes, purpose: Purpose
) -> None:
    signed = sign(OWNER, purpose, payload)
    received = Signed.model_validate_json(signed.model_dump_json())
    assert received == signed
    received.verify(purpose)


@given(payload=st.binary(max_size=300))
def test_a_signature_for_one_purpose_is_none_for_another(payload: bytes) -> None:
    with pytest.raises(SignatureInvalid):
        sign(OWNER, Purpose.RECORD, payload).verify(Purpose.REVISION)


@given(payload=st.binary(min_size=1, max_size=300), data=st.data())
def test_any_changed_bit_of_payload_or_signature_is_noticed(
    payload: bytes, data: st.DataObject
) -> None:
    signed = sign(OWNER, Purpose.RECORD, payload)
    field = data.draw(st.sampled_from(["payload", "signature"]))
    changed = bytearray(getattr(signed, field))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SignatureInvalid):
        signed.model_copy(update={field: bytes(changed)}).verify(Purpose.RECORD)


def test_another_signer_cannot_be_named() -> None:
    signed = sign(OWNER, Purpose.RECORD, b"payload")
    with pytest.raises(SignatureInvalid):
        signed.model_copy(update={"signer": Identity.generate().peer_id}).verify(Purpose.RECORD)


@pytest.mark.parametrize("payload", ["=", "a", "not base64!", "é"])
def test_text_that_is_no_base64_is_refused(payload: str) -> None:
    with pytest.raises(ValidationError):
        Signed.model_validate({"signer": OWNER.peer_id, "payload": payload, "signature": ""})
