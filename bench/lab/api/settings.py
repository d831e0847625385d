"""What the REST API can be told."""

import ipaddress
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from sqlalchemy import URL

from bench.lab.experiments.settings import ExperimentdSettings
from overlay.errors import SettingsInvalid
from overlay.settings import NodeSettings, split_address

EVERYWHERE = "0.0.0.0"

MIN_TOKEN = 16
"""Characters; fewer could be guessed."""


class ApiSettings(NodeSettings):
    """Settings of `myxo lab api`, from `MYXO_LAB_API_*`, `MYXO_*` or `[lab_api]` in the file."""

    section: ClassVar[str] = "lab_api"

    listen: str = "127.0.0.1:5001"
    """`[HOST]:PORT` of the API and the page; a HOST that others can reach needs a token."""

    token: str = Field("", repr=False)
    """What requests must carry as `Authorization: Bearer TOKEN`; best given by the environment."""

    token_file: Path | None = None
    """The file that the token is read from."""

    database: str = Field("", repr=False)
    """URL of the database; the one that `myxo lab experiments` uses if empty."""

    timeout_s: float = Field(10.0, gt=0)
    """Seconds that the network has to answer."""

    def address(self) -> tuple[str, int]:
        """Return host and port to listen at.

        Raises:
            SettingsInvalid: others can reach it, and no token keeps them out.
        """
        host, port = split_address(self.listen, EVERYWHERE)
        if not is_loopback(host) and not self.secret():
            raise SettingsInvalid(
                f"{self.listen} can be reached from other machines: give --token-file FILE or "
                "MYXO_LAB_API_TOKEN, or listen on 127.0.0.1"
            )
        return host, port

    def secret(self) -> str:
        """Return the token; empty if none is asked for.

        Raises:
            SettingsInvalid: its file cannot be read, or it is too short.
        """
        token = self.token if self.token_file is None else _read(self.token_file)
        if token and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable()):
            raise SettingsInvalid(f"a token is {MIN_TOKEN} or more printable ASCII characters")
        return token

    def database_url(self) -> URL:
        """Return where experiments are kept: where their daemon keeps them, unless named here."""
        given = {"database": self.database or None, "state_dir": self.state_dir}
        return ExperimentdSettings.load(given).database_url()


def is_loopback(host: str) -> bool:
    """Return whether only this machine itself can have or reach this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _read(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsInvalid(f"the token cannot be read from {path}: {exc}") from exc
    if not token:
        raise SettingsInvalid(f"there is no token in {path}")
    return token
