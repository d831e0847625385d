"""What a load host, and whoever commands load hosts, can be told."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from overlay.settings import NodeSettings

JOIN_TIMEOUT_S = 10.0
"""In which a bootstrap node must be found by who commands load hosts."""


class HostSettings(NodeSettings):
    """Settings of `myxo lab host`, from `MYXO_LAB_HOST_*`, `MYXO_*` or `[lab_host]` in the file."""

    section: ClassVar[str] = "lab_host"

    p2p_listen_addr: str = ":4010"
    """`[HOST]:PORT` of the overlay's listener; the next free port if it is taken."""

    proxy: str = "127.0.0.1:4200"
    """`HOST:PORT` of the proxy at which clients ask for services."""

    trace_logging: Literal["stream", "file", "sql", "off"] = "stream"
    """Where traces of requests go: to whoever commands, into a file of the state directory, into
    the experiments' database, or nowhere."""

    trace_file: Path | None = None
    """The file; `lab/traces-HOSTNAME.csv` in the state directory if not given."""


class CommandSettings(NodeSettings):
    """Settings of who commands load hosts, from `MYXO_LAB_*`, `MYXO_*` or `[lab]` in the file."""

    section: ClassVar[str] = "lab"

    log_level: str = Field("error", pattern="^(debug|info|warning|error)$")
    """The least severe level that is logged; what a command is answered is no log."""

    timeout_s: float = Field(JOIN_TIMEOUT_S, gt=0)
    """Seconds within which a bootstrap node must be found."""
