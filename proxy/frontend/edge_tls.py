"""The certificates that the outside is shown, read again when their files change.

Whoever renews a certificate replaces its files and tells nobody. So each handshake looks at the
files, which costs one `stat` each, and a change is read before it. A change that cannot be used,
such as a new certificate whose key has not been written yet, leaves what was there in force.

Several certificates are told apart by the name that the client asks for (SNI); one that asks for
none of their names is shown the first.
"""

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from overlay.errors import SettingsInvalid
from overlay.tls import ALPN_HTTP1, ALPN_HTTP2, load_chain

log = structlog.get_logger()

_Stamp = tuple[tuple[int, int, int], ...]


class _Shown(NamedTuple):
    """A certificate and its key, ready to be shown, and the names that it is for."""

    context: ssl.SSLContext
    names: frozenset[str]
    pem: bytes


class EdgeTls:
    """The TLS contexts of an edge.

    Args:
        pairs: files of certificates, each with its chain, and of their keys, in PEM.
        client_ca: file of the authorities whose certificates clients must show; None: none must.

    Attributes:
        pems: what is in force, each a key, its certificate and that one's chain.
        authorities: those of clients, in PEM.

    Raises:
        SettingsInvalid: a file cannot be used; says which and why.
    """

    def __init__(self, pairs: Sequence[tuple[Path, Path]], client_ca: Path | None) -> None:
        self._pairs = pairs
        self._client_ca = client_ca
        self._stamp = self._look()
        self.pems: list[bytes] = []
        self.authorities: str | None = None
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """Return the context for the next handshake."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._context = self._read()
            except SettingsInvalid as exc:
                log.warning("edge.certificate_unusable", error=str(exc), kept="the one before")
            else:
                log.info("edge.certificate_read")
        return self._context

    def _read(self) -> ssl.SSLContext:
        authorities = None if self._client_ca is None else _authorities(self._client_ca)
        shown = [_shown(cert, key, authorities) for cert, key in self._pairs]
        self.pems, self.authorities = [one.pem for one in shown], authorities
        first = shown[0].context

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            connection.context = _for_name(shown, name or "")

        if len(shown) > 1:
            first.sni_callback = choose
        return first

    def _look(self) -> _Stamp:
        files = [path for pair in self._pairs for path in pair]
        return tuple(map(_stamp_of, files + ([self._client_ca] if self._client_ca else [])))


def _shown(cert: Path, key: Path, authorities: str | None) -> _Shown:
    pem, leaf = _checked(cert, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN_HTTP2, ALPN_HTTP1])
    try:
        load_chain(context, pem)
    except ssl.SSLError as exc:
        raise SettingsInvalid(f"{cert} and {key} cannot be used: {exc.reason}") from exc
    if authorities is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authorities)
    return _Shown(context, _names(leaf), pem)


def _stamp_of(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_mtime_ns, status.st_size, status.st_ino


def _checked(cert: Path, key: Path) -> tuple[bytes, x509.Certificate]:
    """Return key and certificates in one PEM, and the first of these."""
    cert_pem, key_pem = _bytes_of(cert), _bytes_of(key)
    try:
        leaf = x509.load_pem_x509_certificates(cert_pem)[0]
    except ValueError as exc:
        raise SettingsInvalid(f"{cert} holds no certificate in PEM: {exc}") from exc
    try:
        private = serialization.load_pem_private_key(key_pem, None)
    except TypeError as exc:
        raise SettingsInvalid(
            f"{key} is under a passphrase; `openssl pkey -in {key}` writes it without"
        ) from exc
    except ValueError as exc:
        raise SettingsInvalid(f"{key} holds no private key in PEM: {exc}") from exc
    if leaf.public_key() != private.public_key():
        raise SettingsInvalid(f"the key in {key} is not that of the certificate in {cert}")
    now = datetime.now(UTC)
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise SettingsInvalid(
            f"the certificate in {cert} is valid from {leaf.not_valid_before_utc:%Y-%m-%d} to "
            f"{leaf.not_valid_after_utc:%Y-%m-%d}, and today is {now:%Y-%m-%d}"
        )
    return key_pem + b"\n" + cert_pem, leaf


def _authorities(path: Path) -> str:
    try:
        found = x509.load_pem_x509_certificates(_bytes_of(path))
    except ValueError as exc:
        raise SettingsInvalid(f"{path} holds no certificate in PEM: {exc}") from exc
    return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in found)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise SettingsInvalid(f"{path} cannot be read: {exc.strerror}") from exc


def _names(leaf: x509.Certificate) -> frozenset[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName))


def _for_name(shown: Sequence[_Shown], name: str) -> ssl.SSLContext:
    """Return the context for a name; one that names it wholly goes before a wildcard."""
    name = name.lower()
    for wanted in (name, f"*.{name.partition('.')[2]}"):
        for one in shown:
            if wanted in one.names:
                return one.context
    return shown[0].context
