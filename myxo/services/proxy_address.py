"""Which proxy a program's requests go to."""

import os
from dataclasses import dataclass

from overlay.settings import split_address

DEFAULT_PROXY = "127.0.0.1:4200"


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """Where a proxy takes requests."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def proxy_address(said: str | None = None) -> ProxyAddress:
    """Return the proxy that was named, else that of `MYXO_PROXY`, else this machine's.

    What runs as a service has `PROXY_IP` and `PROXY_PORT`, which are its machine's. Where the
    environment names a network, and this machine has no proxy, one is started for the program.

    Raises:
        SettingsInvalid: it is no address.
        NoProxy: the network that the environment names cannot be joined.
    """
    text = said or os.environ.get("MYXO_PROXY") or _of_this_instance()
    if text is None and (os.environ.get("P2P_BOOTSTRAPS") or os.environ.get("MYXO_BOOTSTRAPS")):
        # Imported here: few programs start a proxy of their own.
        from myxo.services.connecting import connected_by_environment  # noqa: PLC0415

        return connected_by_environment(_parsed(DEFAULT_PROXY))
    return _parsed(text or DEFAULT_PROXY)


def _parsed(text: str) -> ProxyAddress:
    host, port = split_address(text, default_host="127.0.0.1")
    return ProxyAddress(host, port)


def _of_this_instance() -> str | None:
    host, port = os.environ.get("PROXY_IP"), os.environ.get("PROXY_PORT")
    return f"{host}:{port}" if host and port else None
