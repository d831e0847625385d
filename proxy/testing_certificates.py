"""A certificate authority of a test's own, and what it issues, as PEM files."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


@dataclass
class Authority:
    """Issues certificates into a folder.

    Attributes:
        folder: where files go.
        name: of the authority and of its own certificate's file.
        file: its own certificate.
    """

    folder: Path
    name: str = "authority"
    file: Path = field(init=False)
    _key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def __post_init__(self) -> None:
        """Write its own certificate."""
        self.file = self.folder / f"{self.name}.pem"
        self.file.write_bytes(self._issue(self.name, self._key, (), days=30, ca=True))

    def issue(self, name: str, *hosts: str, days: int = 30) -> tuple[Path, Path]:
        """Return the files of a new certificate and its key.

        Args:
            name: of the subject and of the files.
            hosts: DNS names that it is for.
            days: until it is not valid any more; negative is before today.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        cert_file, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert_file.write_bytes(self._issue(name, key, hosts, days=days, ca=False))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cert_file, key_file

    def _issue(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        hosts: tuple[str, ...],
        *,
        days: int,
        ca: bool,
    ) -> bytes:
        ends = datetime.now(UTC) + days * _DAY
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(ends - 60 * _DAY)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if hosts:
            names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)
