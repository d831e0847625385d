"""What the registry can be told."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from overlay.errors import SettingsInvalid
from overlay.settings import NodeSettings
from registry.etcd_gateway import REQUEST_TIMEOUT_S, EtcdAccess

DEFAULT_ETCD_IP = "127.0.0.1"


class RegistrySettings(NodeSettings):
    """Settings of `registry-service`: `MYXO_REGISTRY_*`, `MYXO_*`, `[registry]` in the file."""

    section: ClassVar[str] = "registry"

    p2p_listen_addr: str = ":4002"
    """`[HOST]:PORT` of the overlay's listener."""

    etcd: tuple[str, ...] = ()
    """Endpoints of an etcd cluster that runs already; SQLite is used if no etcd is asked for."""

    new_etcd_cluster: bool = False
    """Start a local etcd as the first member of a new cluster."""

    etcd_ip: str = ""
    """Where the local member listens and what it advertises; alone, it joins the cluster of another
    registry peer."""

    etcd_client_port: int = Field(2379, ge=1, le=65535)
    """The local member's port for clients."""

    etcd_peer_port: int = Field(2380, ge=1, le=65535)
    """The local member's port for other members."""

    etcd_ca: Path | None = None
    """The authority that signed the etcd servers' certificates; the system's if not given."""

    etcd_cert: Path | None = None
    """The certificate to show to etcd."""

    etcd_key: Path | None = None
    """The private key of `etcd_cert`."""

    etcd_user: str = ""
    """The user, where etcd asks for one."""

    etcd_password: str = Field("", repr=False)
    """The user's password; best given as MYXO_REGISTRY_ETCD_PASSWORD."""

    etcd_timeout_s: float = Field(REQUEST_TIMEOUT_S, gt=0, le=60)
    """Seconds that one etcd endpoint has to answer before the next one is asked."""

    local: bool = False
    """Serve without joining anybody: for trying things out."""

    @property
    def store_kind(self) -> str:
        """`etcd` or `sqlite`."""
        return "etcd" if self.etcd or self.runs_member else "sqlite"

    @property
    def runs_member(self) -> bool:
        """Whether a local etcd member is to be started."""
        return self.new_etcd_cluster or bool(self.etcd_ip)

    def etcd_access(self, endpoints: tuple[str, ...]) -> EtcdAccess:
        """Return how to reach etcd at `endpoints`."""
        return EtcdAccess(
            endpoints,
            ca=self.etcd_ca,
            cert=self.etcd_cert,
            key=self.etcd_key,
            user=self.etcd_user,
            password=self.etcd_password,
            timeout_s=self.etcd_timeout_s,
        )

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            SettingsInvalid: saying which.
        """
        if self.etcd and self.runs_member:
            raise SettingsInvalid(
                "--etcd connects to an etcd that runs already, --new-etcd-cluster and --etcd-ip "
                "start one here: give one or the other"
            )
        if self.etcd_cert is not None and self.etcd_key is None:
            raise SettingsInvalid("--etcd-cert needs --etcd-key, the certificate's private key")


class CliSettings(NodeSettings):
    """Settings of `registry-cli`, which joins the network for one command."""

    section: ClassVar[str] = "registry_cli"

    log_level: str = Field("error", pattern="^(debug|info|warning|error)$")
    """The least severe level that is logged; a command's own result is no log."""

    timeout_s: float = Field(10.0, gt=0)
    """Seconds within which a bootstrap node and a registry peer must be found."""
