"""Mutual TLS 1.3 between a proxy and a gateway, both ends known as peers.

Every member can issue a certificate under the network's authority, whose key comes from the
passphrase: so the authority keeps strangers out, and what tells *which* peer is at the other end is
the pin: the leaf's SHA-256 in its signed record, checked in both directions. Leaves live as long as
the process and are never written to disk. Validity times are not checked: clocks are not trusted.
"""

import hashlib
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from overlay.names import PeerId
from overlay.passphrase import NetworkKeys

ALPN_HTTP1 = "http/1.1"

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which the ssl module has no name for."""

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_VALID_FROM = datetime(2000, 1, 1, tzinfo=UTC)
_VALID_TO = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PeerTls:
    """The TLS contexts of one peer and the pin under which others know it."""

    server_context: ssl.SSLContext
    client_context: ssl.SSLContext
    certificate_sha256: str


def open_tls(keys: NetworkKeys, peer_id: PeerId) -> PeerTls:
    """Return the contexts of a peer with a fresh leaf certificate."""
    ca_key = ec.derive_private_key(
        int.from_bytes(keys.ca_seed) % (_P256_ORDER - 1) + 1, ec.SECP256R1()
    )
    ca_name = _name(f"myxo network {keys.network_id}")
    ca = _certificate(ca_name, ca_name, ca_key.public_key(), ca_key, ca=True)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = _certificate(_name(peer_id), ca_name, key.public_key(), ca_key, ca=False)
    chain = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + leaf.public_bytes(serialization.Encoding.PEM)
    authority = ca.public_bytes(serialization.Encoding.PEM).decode()
    return PeerTls(
        _context(ssl.PROTOCOL_TLS_SERVER, chain, authority),
        _context(ssl.PROTOCOL_TLS_CLIENT, chain, authority),
        hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).hexdigest(),
    )


def leaf_sha256(stream: "trio.SSLStream[trio.SocketStream]") -> str:
    """Return the pin of the other end's certificate, in hexadecimal; empty if it showed none."""
    der = stream.getpeercert(binary_form=True)
    return hashlib.sha256(der).hexdigest() if der else ""


def _context(protocol: int, chain: bytes, authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.load_verify_locations(cadata=authority)
    context.set_alpn_protocols([ALPN_HTTP1])
    _load_chain(context, chain)
    return context


def _load_chain(context: ssl.SSLContext, chain: bytes) -> None:
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
