"""What the bootstrap daemon can be told."""

from typing import ClassVar

from overlay.settings import NodeSettings


class BootstrapSettings(NodeSettings):
    """Settings of `bootstrap`, from `MYXO_BOOTSTRAP_*`, `MYXO_*` or `[bootstrap]` in the file."""

    section: ClassVar[str] = "bootstrap"
    fixed_p2p_port: ClassVar[bool] = True
    uses_joined_network: ClassVar[bool] = False

    p2p_listen_addr: str = ":4001"
    """`[HOST]:PORT` of the overlay's listener, where everybody else finds the network."""
