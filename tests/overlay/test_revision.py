import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import MalformedMessage, SignatureInvalid
from overlay.identity import Identity
from overlay.names import Digest, ServiceName
from overlay.revision import MAX_REVISION_BYTES, Revision, SignedRevision
from overlay.signed import Purpose, sign
from overlay.spec import Image, ServiceSpec

OWNER = Identity.generate()
DIGEST = Digest("sha256:" + "0" * 64)
HELLO = ServiceName("hello")

specs = st.builds(
    ServiceSpec,
    image=st.none() | st.just(Image(reference="alice/hello:1.0", config_digest=DIGEST)),
    process=st.none() | st.text(max_size=50),
    port=st.integers(1, 65535),
    env=st.dictionaries(st.from_regex(r"\A[A-Z_][A-Z0-9_]{0,8}\Z"), st.text(max_size=20)),
    soft_rtt_ms=st.none() | st.floats(0.001, 1e6),
    cpu_millicores=st.integers(0, 64_000),
    concurrency=st.integers(1, 1000),
    idempotent=st.booleans(),
)
revisions = st.builds(
    Revision,
    name=st.just(HELLO),
    number=st.integers(1, 2**31),
    spec=st.none() | specs,
    created_at=st.floats(0, 2e9),
)


@given(revision=revisions)
def test_a_revision_comes_back_from_json_as_it_was_signed(revision: Revision) -> None:
    signed = SignedRevision.sign(OWNER, revision)
    received = SignedRevision.from_json(signed.to_json())
    assert received == signed
    assert received.revision == revision
    assert received.owner == OWNER.peer_id


def test_a_revision_without_a_spec_deletes_the_service() -> None:
    deletion = Revision(name=HELLO, number=2, spec=None)
    assert SignedRevision.from_json(SignedRevision.sign(OWNER, deletion).to_json()).revision == (
        deletion
    )


def test_a_changed_or_relabelled_revision_is_refused() -> None:
    signed = SignedRevision.sign(OWNER, Revision(name=HELLO, number=1, spec=ServiceSpec())).signed
    for forged in [
        signed.model_copy(update={"payload": signed.payload.replace(b"1", b"9")}),
        signed.model_copy(update={"signer": Identity.generate().peer_id}),
        sign(OWNER, Purpose.RECORD, signed.payload),
    ]:
        with pytest.raises(SignatureInvalid):
            SignedRevision.verified(forged)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{}",
        b'{"name": "hello", "number": 0, "spec": null}',
        b'{"name": "No Name", "number": 1, "spec": null}',
        b'{"name": "a/../b", "number": 1, "spec": null}',
        b'{"name": "hello", "number": 1, "spec": {"port": 0}}',
        b'{"name": "hello", "number": 1, "spec": {"env": {"not a name": ""}}}',
        b"[" * 10_000,
    ],
)
def test_signed_bytes_that_are_no_revision_are_refused(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        SignedRevision.verified(sign(OWNER, Purpose.REVISION, payload))


@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_signed_revision_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        SignedRevision.from_json(data)


def test_a_revision_over_the_limit_is_refused_before_it_is_read() -> None:
    payload = b" " * (MAX_REVISION_BYTES + 1)
    with pytest.raises(MalformedMessage, match=str(MAX_REVISION_BYTES)):
        SignedRevision.verified(sign(OWNER, Purpose.REVISION, payload))
    with pytest.raises(MalformedMessage, match="over the limit"):
        SignedRevision.from_json(b"x" * (2 * MAX_REVISION_BYTES + 1))


@pytest.mark.parametrize("created_at", ["-1", "1e18", "NaN", "Infinity"])
def test_a_time_that_has_no_date_is_malformed(created_at: str) -> None:
    payload = '{"name": "hello", "number": 1, "spec": null, "created_at": %s}'
    SignedRevision.verified(sign(OWNER, Purpose.REVISION, (payload % "1").encode()))
    with pytest.raises(MalformedMessage):
        SignedRevision.verified(sign(OWNER, Purpose.REVISION, (payload % created_at).encode()))


@pytest.mark.parametrize("health", ["/ok HTTP/1.1\r\n\r\nDELETE /", "/a b", "ok"])
def test_a_health_path_is_one_path(health: str) -> None:
    spec = ServiceSpec(process="x").model_copy(update={"health": health})
    signed = SignedRevision.sign(OWNER, Revision(name=HELLO, number=1, spec=spec)).signed
    with pytest.raises(MalformedMessage):
        SignedRevision.verified(signed)
