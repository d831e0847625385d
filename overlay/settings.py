"""Where settings come from, and the ones that every daemon shares.

A flag beats the environment beats the file beats the default. The environment has `MYXO_*` for
every field, and the older names `P2P_BOOTSTRAPS` (separated by white space) and `P2P_PSK`. The file
is TOML: `~/.config/myxo/config.toml`, or the one that `--config` or `MYXO_CONFIG` names; keys at
its top hold for every daemon, keys in a table such as `[proxy]` for that one. Last comes the
network that `myxo up` or `myxo join` has this machine in, so that commands beside it need no flags.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from overlay.errors import SettingsInvalid
from overlay.records import Role

_JOINED = "network.toml"

SYSTEM_STATE_DIR = Path("/var/lib/myxo")
"""Where `myxo install` keeps the state of daemons that systemd runs."""


def state_dir() -> Path:
    """Return where this user's daemons keep keys and replicas (`MYXO_STATE_DIR`)."""
    if named := os.environ.get("MYXO_STATE_DIR"):
        return Path(named).absolute()
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "myxo"


def config_dir() -> Path:
    """Return where this user's own files are: owner key, allowed keys (`MYXO_CONFIG_DIR`)."""
    if named := os.environ.get("MYXO_CONFIG_DIR"):
        return Path(named).absolute()
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "myxo"


def owner_key_path() -> Path:
    """Return the file of this person's owner key."""
    return config_dir() / "owner.key"


def allowed_keys_path() -> Path:
    """Return the file of owner keys, one a line, whose processes this machine runs."""
    return config_dir() / "allowed_keys"


def key_path(state_dir: Path, role: Role, name: str = "") -> Path:
    """Return where the key of a daemon is kept unless `--keyfile` names another file."""
    return state_dir / "keys" / f"{role}{'-' + name if name else ''}.key"


def control_path(state_dir: Path, role: Role, name: str = "") -> Path:
    """Return where a daemon serves its control socket; short, as such a path must be."""
    return state_dir / "run" / f"{role}{'-' + name if name else ''}.sock"


class NodeSettings(BaseSettings):
    """What every daemon can be told; each daemon's own class adds to it."""

    section: ClassVar[str] = ""
    fixed_p2p_port: ClassVar[bool] = False
    """Whether others must find this daemon at its default overlay port."""

    uses_joined_network: ClassVar[bool] = True
    """Whether the network that this machine is in is the default."""

    model_config = SettingsConfigDict(
        env_prefix="MYXO_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    bootstraps: tuple[str, ...] = ()
    """Multiaddrs of bootstrap nodes, with `/p2p/ID`; one that answers is enough."""

    psk: str | None = Field(None, repr=False)
    """The network's passphrase; without one the network is open to everyone."""

    p2p_listen_addr: str = ":0"
    """`[HOST]:PORT` of the overlay's listener; all addresses if HOST is empty, any port if 0."""

    announce: tuple[str, ...] = ()
    """Multiaddrs to advertise instead of the machine's own addresses, for NAT and proxies."""

    reachable: Literal["auto", "yes", "no"] = "auto"
    """Whether others can dial this daemon: `yes`, `no` to be reached through relays, `auto` to have
    bootstrap nodes find out. With `announce` it is `yes` unless it says `no`."""

    profile: Literal["local", "lan", "wan"] = "lan"
    """What the timers of membership are made for: one machine, one site, or the Internet. `wan`
    bears RTTs over a second and takes three times as long to see a death."""

    hostname: str = ""
    """The machine's name for people and metrics; the system's if empty."""

    prom_listen_addr: str = ""
    """`[HOST]:PORT` of `/metrics`. The default port moves on if it is taken, a given one never."""

    keyfile: Path | None = None
    """The file with this daemon's identity; made there if it does not exist."""

    ephemeral: bool = False
    """A fresh identity that is stored nowhere."""

    state_dir: Path = Field(default_factory=state_dir)
    """Keys, replicas and sockets of this machine's daemons."""

    admin: str | None = None
    """The owner key id of the network's founder, who may reassign names and run processes."""

    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    """The least severe level that is logged: debug, info, warning or error."""

    @classmethod
    def load(cls, flags: Mapping[str, Any], config: Path | None = None) -> Self:
        """Return the settings from flags (those not None), environment, file and defaults.

        Raises:
            SettingsInvalid: naming the setting, what was wrong with it, and where it came from.
        """
        given = {k: v for k, v in flags.items() if v is not None and v not in ((), [])}
        try:
            return cls(**given, **_FileMarker(config).as_init())
        except ValidationError as exc:
            raise SettingsInvalid(_explain(exc)) from exc

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: flags, environment, file."""
        del env_settings, dotenv_settings, file_secret_settings
        init: dict[str, Any] = getattr(init_settings, "init_kwargs", {})
        path = init.pop(_FileMarker.KEY, None)
        return (
            init_settings,
            _Environment(settings_cls),
            _TomlSection(settings_cls, path, cls.section),
            *([_JoinedNetwork(settings_cls, init)] if cls.uses_joined_network else []),
        )


class _FileMarker:
    """Carries the settings file's path through pydantic to the source that reads it."""

    KEY = "config_file_"

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def as_init(self) -> dict[str, Any]:
        return {} if self._path is None else {self.KEY: self._path}


class _Environment(EnvSettingsSource):
    """`MYXO_<SECTION>_<FIELD>`, then `MYXO_<FIELD>`, then the older names; lists by white space."""

    _OLDER: ClassVar[dict[str, str]] = {"bootstraps": "P2P_BOOTSTRAPS", "psk": "P2P_PSK"}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        del field
        section = getattr(self.settings_cls, "section", "")
        names = [f"MYXO_{section}_{field_name}", f"MYXO_{field_name}", self._OLDER.get(field_name)]
        for name in names:
            if name and (value := os.environ.get(name.upper())):
                return value, field_name, False
        return None, field_name, False

    def prepare_field_value(
        self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool
    ) -> Any:
        del value_is_complex, field_name
        if value is None:
            return None
        return tuple(str(value).split()) if "tuple" in str(field.annotation) else value


class _TomlSection(PydanticBaseSettingsSource):
    """The top of the settings file and the daemon's own table in it."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path | None, section: str) -> None:
        super().__init__(settings_cls)
        self._path = path
        self._section = section

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the whole table is read at once in __call__

    def __call__(self) -> dict[str, Any]:
        explicit = self._path or os.environ.get("MYXO_CONFIG")
        path = Path(explicit) if explicit else config_dir() / "config.toml"
        try:
            content = tomllib.loads(path.read_text())
        except FileNotFoundError:
            if explicit:
                raise SettingsInvalid(f"the settings file {path} does not exist") from None
            return {}
        except (OSError, ValueError) as exc:
            raise SettingsInvalid(f"the settings file {path} cannot be read: {exc}") from exc
        common = {k: v for k, v in content.items() if not isinstance(v, dict)}
        known = set(self.settings_cls.model_fields)
        mine = content.get(self._section, {})
        if not isinstance(mine, dict):
            raise SettingsInvalid(f"{self._section!r} in {path} must be a table: [{self._section}]")
        return {k: v for k, v in common.items() if k in known} | mine


class _JoinedNetwork(PydanticBaseSettingsSource):
    """The network that `myxo up`, `join` or `install` made this machine a part of."""

    def __init__(self, settings_cls: type[BaseSettings], init: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._dir = Path(init.get("state_dir") or state_dir())

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the whole file is read at once in __call__

    def __call__(self) -> dict[str, Any]:
        return read_joined_network(self._dir) or read_joined_network(SYSTEM_STATE_DIR)


def read_joined_network(directory: Path) -> dict[str, Any]:
    """Return bootstraps, passphrase and admin of the network that this machine is in, if any."""
    try:
        return tomllib.loads((directory / _JOINED).read_text())
    except (OSError, ValueError):
        return {}


def write_joined_network(
    directory: Path, *, bootstraps: tuple[str, ...], psk: str | None, admin: str | None
) -> None:
    """Store which network this machine is in, readable by its user only."""
    lines = [f"bootstraps = {json.dumps(list(bootstraps))}"]
    lines += [f"{k} = {json.dumps(v)}" for k, v in (("psk", psk), ("admin", admin)) if v]
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / _JOINED
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")


def forget_joined_network(directory: Path) -> None:
    """Say that this machine is in no network any more."""
    (directory / _JOINED).unlink(missing_ok=True)


def split_address(text: str, default_host: str) -> tuple[str, int]:
    """Return host and port of `[HOST]:PORT`; an IPv6 host stands in brackets.

    Raises:
        SettingsInvalid: it is not of that form, or the port is not 0 to 65535.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004
        raise SettingsInvalid(f"{text!r} is not HOST:PORT or :PORT with a port from 0 to 65535")
    return host or default_host, int(port)


def _explain(exc: ValidationError) -> str:
    first = exc.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"there is no setting {name!r}"
    return f"the setting {name!r} is wrong: {first['msg']}"


def chosen_state_dir(given: Path | None) -> Path:
    """Return the state directory that an option names, or else the settings do."""
    return NodeSettings.load({"state_dir": given}).state_dir
