import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from overlay.errors import SettingsInvalid
from proxy.frontend.edge_tls import EdgeTls
from proxy.testing_certificates import Authority

COMMON_NAME = NameOID.COMMON_NAME


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shaken(
    tls: EdgeTls, authority: Authority, host: str, client: tuple[Path, Path] | None = None
) -> str:
    """Return the name in the certificate that a client is shown which asks for `host`."""
    context = ssl.create_default_context(cafile=str(authority.file))
    context.check_hostname = False
    if client is not None:
        context.load_cert_chain(*client)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        context.wrap_bio(to_client, to_server, server_hostname=host or None),
        tls.context().wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    der = ends[0].getpeercert(binary_form=True)
    assert der is not None
    (name,) = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(COMMON_NAME)
    return str(name.value)


def test_the_certificate_is_the_one_for_the_name_that_is_asked_for(authority: Authority) -> None:
    pairs = [
        authority.issue("first", "first.example.com"),
        authority.issue("wild", "*.example.com"),
        authority.issue("shop", "shop.example.com"),
    ]
    tls = EdgeTls(pairs, None)
    asked = {
        "first.example.com": "first",
        "shop.example.com": "shop",
        "SHOP.example.com": "shop",
        "other.example.com": "wild",
        "example.org": "first",
        "": "first",
    }
    assert {host: shaken(tls, authority, host) for host in asked} == asked


def test_files_that_change_are_read_before_the_next_handshake(authority: Authority) -> None:
    cert, key = authority.issue("old")
    tls = EdgeTls([(cert, key)], None)
    assert shaken(tls, authority, "x") == "old"
    new_cert, new_key = authority.issue("new")
    new_cert.replace(cert)
    assert shaken(tls, authority, "x") == "old", "its key is not there yet"
    new_key.replace(key)
    assert shaken(tls, authority, "x") == "new"
    cert.unlink()
    assert shaken(tls, authority, "x") == "new"


def test_a_client_must_show_a_certificate_of_the_authority_that_is_named(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    tls = EdgeTls([authority.issue("edge")], authority.file)
    assert shaken(tls, authority, "x", authority.issue("alice")) == "edge"
    for wrong in (None, stranger.issue("mallory"), authority.issue("late", days=-1)):
        with pytest.raises(ssl.SSLError):
            shaken(tls, authority, "x", wrong)


def test_what_cannot_be_used_says_which_file_and_why(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue("edge")
    other_cert, other_key = authority.issue("other")
    late = authority.issue("late", days=-1)
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("no PEM")
    secret = tmp_path / "secret.key"
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    secret.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    wrong = {
        (tmp_path / "none", key): "none cannot be read: No such file",
        (nonsense, key): "nonsense holds no certificate in PEM",
        (cert, nonsense): "nonsense holds no private key in PEM",
        (cert, other_key): "is not that of the certificate in",
        (other_cert, secret): "is under a passphrase",
        late: "is valid from",
    }
    for pair, text in wrong.items():
        with pytest.raises(SettingsInvalid, match=text):
            EdgeTls([pair], None)
    with pytest.raises(SettingsInvalid, match="nonsense holds no certificate"):
        EdgeTls([(cert, key)], nonsense)


def test_a_look_at_files_that_stay_reads_nothing(authority: Authority) -> None:
    tls = EdgeTls([authority.issue("edge")], None)
    assert tls.context() is tls.context()
    os.utime(authority.folder / "edge.pem", (0, 0))
    before = tls.context()
    assert before is tls.context()
