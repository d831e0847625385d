"""What `puma_start` can be told beside the configuration: ports, and the network to be in."""

from typing import ClassVar

from pydantic import Field

from overlay.settings import NodeSettings

DEFAULT_PORT = 8080


class PumaSettings(NodeSettings):
    """Settings of a program's part in a network, from `MYXO_PUMA_*`, `MYXO_*` or `[puma]`."""

    section: ClassVar[str] = "puma"
    uses_joined_network: ClassVar[bool] = False

    port: int = Field(DEFAULT_PORT, ge=1, le=65535)
    """The port of localhost where the services answer at their paths."""

    proxy_port: int = Field(4200, ge=1, le=65535)
    """The port of this machine's proxy, where that is started."""

    p2p_listen_addr: str = ":4001"
    """`[HOST]:PORT` of the bootstrap node, where a network is founded."""

    runtime: str | None = Field(None, pattern="^(auto|process|docker)$")
    """The runtime of the allocator, where that is started; by default `process`, and `auto` for a
    program whose services run from an image."""
