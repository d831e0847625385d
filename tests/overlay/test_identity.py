import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from overlay.errors import SettingsInvalid, SignatureInvalid
from overlay.identity import Identity, load_or_create, peer_id_of, public_key_of, verify
from overlay.names import PeerId

seeds = st.binary(min_size=32, max_size=32)


@given(seed=seeds)
def test_the_peer_id_is_the_one_that_libp2p_gives_the_key(seed: bytes) -> None:
    public_key = create_new_key_pair(seed).public_key
    identity = Identity.from_seed(seed)
    assert identity.peer_id == ID.from_pubkey(public_key).to_base58()
    assert public_key_of(identity.peer_id) == public_key.to_bytes()


@given(key=seeds)
def test_a_peer_id_and_its_key_give_each_other(key: bytes) -> None:
    assert public_key_of(peer_id_of(key)) == key


@given(seed=seeds, message=st.binary(max_size=200), other=st.binary(max_size=200))
def test_a_signature_holds_for_its_bytes_and_key_only(
    seed: bytes, message: bytes, other: bytes
) -> None:
    signer = Identity.from_seed(seed)
    signature = signer.sign(message)
    verify(signer.peer_id, message, signature)
    for peer, said, signed in [
        (Identity.generate().peer_id, message, signature),
        (signer.peer_id, message + b"x", signature),
        (signer.peer_id, message, other),
    ]:
        with pytest.raises(SignatureInvalid):
            verify(peer, said, signed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nobody",
        "0OIl",
        "é" * 52,
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",  # an RSA key's
        "1" * 52,
    ],
)
def test_what_is_no_ed25519_peer_id_is_refused(text: str) -> None:
    with pytest.raises(SignatureInvalid):
        public_key_of(PeerId(text))


@pytest.mark.parametrize("ending", [" ", "\n", "\t", "1"])
def test_a_key_has_one_spelling(ending: str) -> None:
    with pytest.raises(SignatureInvalid):
        public_key_of(PeerId(Identity.generate().peer_id + ending))


@pytest.mark.timeout(5)
def test_a_peer_id_of_megabytes_is_refused_at_once() -> None:
    with pytest.raises(SignatureInvalid, match="too long"):
        public_key_of(PeerId("z" * 4_000_000))


def test_an_identity_never_shows_its_key() -> None:
    identity = Identity.generate()
    assert identity.seed.hex() not in repr(identity)
    assert repr(identity.seed) not in repr(identity)
    assert identity.peer_id in repr(identity)


def test_a_key_file_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "key"
    made = load_or_create(path)
    assert load_or_create(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", ["", "not hexadecimal", "ab" * 31, "ab" * 33])
def test_a_file_that_holds_no_key_is_named_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    with pytest.raises(SettingsInvalid, match="--keyfile") as invalid:
        load_or_create(path)
    assert str(path) in str(invalid.value)
    assert path.read_text() == content


def test_a_path_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsInvalid, match="--keyfile"):
        load_or_create(tmp_path / "file" / "key")
