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

    What runs as a service has `PROXY_IP` and `PROXY_PORT`, which are its machine's.

    Raises:
        SettingsInvalid: it is no address.
    """
    text = said or os.environ.get("MYXO_PROXY") or _of_this_instance() or DEFAULT_PROXY
    host, port = split_address(text, default_host="127.0.0.1")
    return ProxyAddress(host, port)


def _of_this_instance() -> str | None:
    host, port = os.environ.get("PROXY_IP"), os.environ.get("PROXY_PORT")
    return f"{host}:{port}" if host and port else None
