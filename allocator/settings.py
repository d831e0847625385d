"""What an allocator can be told beside what every daemon can."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from overlay.labels import parse_labels
from overlay.settings import NodeSettings


class AllocatorSettings(NodeSettings):
    """Settings of `allocator`: flag, `MYXO_ALLOCATOR_*`, `MYXO_*`, the file's `[allocator]`."""

    section: ClassVar[str] = "allocator"

    p2p_listen_addr: str = ":4003"
    """`[HOST]:PORT` of the overlay's listener."""

    gateway_listen_addr: str = ":4443"
    """`[HOST]:PORT` where other machines' proxies reach this machine's instances. The default port
    moves on if it is taken, a given one never."""

    gateway_announce: tuple[str, ...] = ()
    """`HOST:PORT`s to advertise for the gateway instead of the machine's own addresses."""

    runtime: Literal["auto", "docker", "process"] = "auto"
    """`docker`, `process`, or `auto`: Docker where an engine answers, and processes besides."""

    cpu_millicores: int = Field(0, ge=0)
    """Millicores that instances may reserve in all; 0 is what the machine has."""

    memory_mib: int = Field(0, ge=0)
    """MiB that instances may reserve in all; 0 is what the machine has."""

    max_instances: int = Field(128, ge=1, le=1000)
    """Most instances at once; each container costs some 5 MB beside what it uses itself."""

    max_instances_per_owner: int = Field(0, ge=0)
    """Most instances of services of one owner key; 0 is no bound."""

    sandboxes: int = Field(4, ge=0, le=64)
    """Network sandboxes that wait unused; with one a container starts some 100 ms sooner. Each
    costs some 5 MB while it waits and while it is used. 0 is none at all."""

    standby_instances: int = Field(64, ge=0, le=1000)
    """Most paused instances at once, less those that the network keeps; 0 pauses none."""

    standby_memory_mib: int = Field(0, ge=0)
    """MiB that they may hold; 0 is a quarter of what instances may reserve. The least valuable go
    first, and any that is in a start's way."""

    parallel_starts: int = Field(0, ge=0, le=64)
    """Starts that the engine is asked for at once, the others wait in turn; 0 is two a core."""

    image_disk_mib: int = Field(0, ge=0)
    """MiB that images may have which were fetched for instances; 0 is no bound. Over it those go
    first that were used least lately; nobody else's image is ever removed."""

    image_cache_mib: int = Field(2048, ge=0)
    """MiB of disk for copies of images that other machines fetch from this one; larger ones are not
    handed on, with 0 none is."""

    share_any_image: bool = False
    """Hand on every image of the engine that a registered service names; else those only that Myxo
    fetched itself or that a service of this machine's user, the admin or an allowed key names."""

    policy: Path | None = None
    """The operator's rules: who may have what run here. Without it `policy.toml` in the
    configuration directory, where there is one."""

    labels: tuple[str, ...] = ()
    """`NAME=VALUE`s that services can ask for in `constraints` and `prefer`. `host`, `platform` and
    `runtime` are there by themselves."""

    allow_any: bool = False
    """In an open network, run everybody's images; in one with a passphrase that is so anyway."""

    proxy_port: int = Field(4200, ge=1, le=65535)
    """Where instances are told to find the proxy until one of this machine says where it is."""

    @field_validator("labels")
    @classmethod
    def _are_labels(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        parse_labels(labels)
        return labels
