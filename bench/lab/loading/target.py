"""What load is sent to: a URL, or a service of Myxo through the proxy of this machine."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlsplit

from bench.lab.errors import BadInput
from myxo.services.asking import target_of as service_of
from myxo.services.proxy_address import ProxyAddress, proxy_address
from overlay.errors import MyxoError

_PORTS = {"http": 80, "https": 443}
_SAFE = "/:@!$&'()*+,;=?%~-._"


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go.

    Attributes:
        name: what was asked for, as it was written: the service of a trace.
        authority: the Host field.
        base: the path under which everything is asked for, with a query if the URL has one.
        of_myxo: it is a service, asked at a proxy that says which instance answered.
    """

    name: str
    scheme: Literal["http", "https"]
    host: str
    port: int
    authority: str
    base: str
    of_myxo: bool = False

    @property
    def origin(self) -> str:
        """Return the URL without a path."""
        return f"{self.scheme}://{self.authority}"

    def url(self, path: str = "") -> str:
        """Return the URL of a path below this one; of this one if the path is empty."""
        if not path:
            return self.origin + self.base
        return f"{self.origin}{self.base.partition('?')[0].rstrip('/')}/{path.removeprefix('/')}"


def target_of(text: str, proxy: str | None = None) -> Target:
    """Return what a URL, or `SERVICE[/PATH]`, means.

    Args:
        text: as a person writes it.
        proxy: the address at which services are asked; else that of `MYXO_PROXY`, else this
            machine's.

    Raises:
        BadInput: it is neither.
    """
    return _of_url(text) if "://" in text else _of_service(text, proxy)


def _of_url(text: str) -> Target:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise BadInput(f"{text!r} is no URL: {exc}") from exc
    if parts.scheme not in _PORTS or not parts.hostname:
        raise BadInput(f"{text!r} is no URL of http or https with a host")
    if parts.username is not None:
        raise BadInput(f"{text!r}: give a user by a header field, not in the URL")
    path = quote(parts.path or "/", safe=_SAFE)
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    return Target(
        name=text,
        scheme="https" if parts.scheme == "https" else "http",
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        authority=parts.netloc,
        base=path + query,
    )


def _of_service(text: str, proxy: str | None) -> Target:
    try:
        service, at = service_of(text), proxy_address(proxy)
    except MyxoError as exc:
        raise BadInput(f"{text!r} is neither a URL nor a service: {exc}") from exc
    return _at_proxy(text, f"/{service.service}/{service.path}", at)


def _at_proxy(name: str, path: str, at: ProxyAddress) -> Target:
    base = quote(path, safe=_SAFE)
    return Target(name, "http", at.host, at.port, str(at), base, of_myxo=True)
