"""Mutual TLS 1.3 between a proxy and a gateway, both ends known as peers.

Every member can issue a certificate under the network's authority, whose key comes from the
passphrase: so the authority keeps strangers out, and what tells *which* peer is at the other end is
the pin: the SHA-256 of the leaf's public key (RFC 7469, section 2.4) in its signed record, checked
in both directions. Its key lives as long as the process, or goes to the one that takes its place,
and is never written to disk. Validity times are not checked: clocks are not trusted.

When the passphrase changes, the same key gets a leaf of the new authority. The pin stays, so there
is no moment in which a record says one thing and a gateway shows another; and both authorities are
trusted for as long as somebody may still show a leaf of the old one.
"""

import hashlib
import os
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from overlay.names import PeerId
from overlay.passphrase import NetworkKeys

ALPN_HTTP1 = "http/1.1"
ALPN_HTTP2 = "h2"

ALPN_UNGREETED = "myxo-http/1"
"""HTTP/1.1 to a gateway that says no word before it, for programs that only speak HTTP."""

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which the ssl module has no name for."""

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_VALID_FROM = datetime(2000, 1, 1, tzinfo=UTC)
_VALID_TO = datetime(9999, 12, 31, tzinfo=UTC)


class PeerTls:
    """The TLS contexts of one peer and the pin under which others know it.

    Whoever opens a connection takes the context from here at that time: `renew` puts others in
    their place.

    Attributes:
        server_context: for the accepting end.
        client_context: for the dialling end.
        pin: SHA-256 of this peer's public key, in hexadecimal.
        leaf: the certificate that it shows, in PEM.
        authorities: one of which must have issued the other end's, in PEM.
    """

    def __init__(
        self,
        keys: NetworkKeys,
        peer_id: PeerId,
        *,
        also_trusted: Iterable[NetworkKeys] = (),
        key: bytes = b"",
    ) -> None:
        self._peer_id = peer_id
        self._key = _read(key) if key else ec.generate_private_key(ec.SECP256R1())
        self.pin = _pin(self._key.public_key())
        self.server_context: ssl.SSLContext
        self.client_context: ssl.SSLContext
        self.leaf = self.authorities = ""
        self.renew(keys, also_trusted=also_trusted)

    def renew(self, keys: NetworkKeys, *, also_trusted: Iterable[NetworkKeys] = ()) -> None:
        """Show a leaf under the authority of `keys` from now on; trust that one and the others'."""
        ca_key, ca = _authority(keys)
        leaf = _certificate(
            _name(self._peer_id), ca.subject, self._key.public_key(), ca_key, ca=False
        )
        self.leaf = leaf.public_bytes(serialization.Encoding.PEM).decode()
        chain = self.key() + self.leaf.encode()
        trusted = [ca, *(_authority(other)[1] for other in also_trusted)]
        authorities = self.authorities = "".join(
            one.public_bytes(serialization.Encoding.PEM).decode() for one in trusted
        )
        self.server_context = _context(ssl.PROTOCOL_TLS_SERVER, chain, authorities)
        self.server_context.num_tickets = 0  # nobody resumes a session: connections are kept
        self.server_context.set_alpn_protocols([ALPN_HTTP1, ALPN_UNGREETED])
        self.client_context = _context(ssl.PROTOCOL_TLS_CLIENT, chain, authorities)

    def key(self) -> bytes:
        """Return the private key as PEM, for the process that takes this one's place."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def open_tls(
    keys: NetworkKeys,
    peer_id: PeerId,
    *,
    also_trusted: Iterable[NetworkKeys] = (),
    key: bytes = b"",
) -> PeerTls:
    """Return the contexts of a peer, with the key in `key` (PEM) or a fresh one."""
    return PeerTls(keys, peer_id, also_trusted=also_trusted, key=key)


def pin_of(certificate: bytes | None) -> str:
    """Return the pin of the key in a certificate in DER, in hexadecimal; empty for none."""
    return _pin(x509.load_der_x509_certificate(certificate).public_key()) if certificate else ""


def _read(key: bytes) -> ec.EllipticCurvePrivateKey:
    read = serialization.load_pem_private_key(key, None)
    if not isinstance(read, ec.EllipticCurvePrivateKey):
        raise TypeError("the key that was handed over is on no elliptic curve")
    return read


def _pin(key: CertificatePublicKeyTypes) -> str:
    encoded = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(encoded).hexdigest()


def _authority(keys: NetworkKeys) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Return the key and certificate of the authority that these keys give."""
    key = ec.derive_private_key(
        int.from_bytes(keys.ca_seed) % (_P256_ORDER - 1) + 1, ec.SECP256R1()
    )
    name = _name(f"myxo network {keys.passphrase_id}")
    return key, _certificate(name, name, key.public_key(), key, ca=True)


def _context(protocol: int, chain: bytes, authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.load_verify_locations(cadata=authority)
    context.set_alpn_protocols([ALPN_HTTP1])
    load_chain(context, chain)
    return context


def load_chain(context: ssl.SSLContext, chain: bytes) -> None:
    """Load key and certificate through an anonymous file: the ssl module takes only paths."""
    fd = os.memfd_create("myxo-leaf", os.MFD_CLOEXEC)
    try:
        os.write(fd, chain)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    signing_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(1 if ca else x509.random_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_TO)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
            critical=False,
        )
    )
    if ca:
        builder = builder.add_extension(_CA_USAGE, critical=True)
    return builder.sign(signing_key, hashes.SHA256())


_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
