"""From what a person gives to `registry-cli add` to the spec that is registered."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overlay.errors import SettingsInvalid
from overlay.names import ServiceName, service_name
from overlay.spec import Image, ServiceSpec
from registry.conf.service import ServiceConf, read_conf
from registry.errors import ConfInvalid
from registry.image import ImageEngine, build_image, service_port, stock_image

FORMS = (
    "add CONFIG IMAGE NAME (builds IMAGE), add CONFIG NAME (CONFIG names an image), "
    "add --image IMAGE NAME, or add --process COMMAND NAME"
)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be added; one of `build`, `stock` and `process` is set.

    Attributes:
        build: the name of the image to build from the configuration.
        stock: the name of an existing image.
        process: a shell command.
    """

    name: ServiceName
    conf: ServiceConf = field(default_factory=ServiceConf)
    build: str | None = None
    stock: str | None = None
    process: str | None = None


def wanted(
    arguments: list[str],
    *,
    image: str | None,
    process: str | None,
    conf: Path | None,
    directory: Path,
) -> Wanted:
    """Return what the command line asks for, with its configuration read and checked.

    Raises:
        SettingsInvalid: the arguments are in none of the forms.
        InvalidName, ConfInvalid: a part of them is wrong.
    """
    if image is not None and process is not None:
        raise SettingsInvalid("give --image or --process, not both")
    if image is not None or process is not None:
        if len(arguments) != 1:
            raise SettingsInvalid(f"with --image or --process only NAME follows; forms: {FORMS}")
        read = ServiceConf() if conf is None else read_conf(_found(conf, directory))
        # A process is not built, so one file can serve both ways to run a service.
        if read.image is not None or (image is not None and read.docker is not None):
            _refuse_second_source(conf, "--image" if image is not None else "--process")
        return Wanted(service_name(arguments[0]), read, stock=image, process=process)
    if conf is not None:
        raise SettingsInvalid("--conf goes with --image or --process; otherwise CONFIG comes first")
    match arguments:
        case [config, reference, name]:
            read = read_conf(_found(Path(config), directory))
            if read.docker is None:
                raise ConfInvalid(f"{config} has no DockerConf, so there is nothing to build")
            return Wanted(service_name(name), read, build=reference)
        case [config, name]:
            read = read_conf(_found(Path(config), directory))
            if read.image is None:
                raise SettingsInvalid(f"{config} names no image; forms: {FORMS}")
            return Wanted(service_name(name), read, stock=read.image)
        case _:
            raise SettingsInvalid(f"{len(arguments)} arguments; forms: {FORMS}")


async def spec_of(
    want: Wanted,
    engine: ImageEngine,
    *,
    directory: Path,
    port: int | None,
    push: bool,
    progress: Progress,
) -> ServiceSpec:
    """Return the spec, its image built and pushed, or found.

    Raises:
        RegistryError: the image cannot be built, pushed or found; nothing was registered.
    """
    fields: dict[str, Any] = dict(want.conf.spec)
    if port is not None:
        fields["port"] = port
    if want.process is not None:
        return ServiceSpec(process=want.process, **fields)
    if want.build is not None and want.conf.docker is not None:
        if want.conf.docker.proxy_client_mode:
            progress("ProxyClientMode changes nothing: services use their machine's proxy")
        # What Myxo built is known to need neither; a configuration can say otherwise.
        fields = {"read_only": True, "cap_drop_all": True} | fields
        fields["port"] = service_port(fields.get("port"), ())
        image = await build_image(
            engine,
            want.conf.docker,
            directory,
            want.build,
            port=fields["port"],
            push=push,
            progress=progress,
        )
        return ServiceSpec(image=image, **fields)
    image, exposed = await stock_image(engine, want.stock or "", progress)
    fields["port"] = service_port(fields.get("port"), exposed)
    return ServiceSpec(image=image, **fields)


def how_it_travels(image: Image) -> str | None:
    """Return what is to be known about an image that no registry has."""
    if image.repo_digest is not None:
        return None
    return (
        f"{image.reference} is in no registry: machines that need it fetch it from those that have "
        "it; keep this one on until another has it, or push it to a registry"
    )


def _found(config: Path, directory: Path) -> Path:
    """Return the configuration's path: as given, or else as it lies beside the sources."""
    beside = directory / config
    return beside if not config.exists() and beside.exists() else config


def _refuse_second_source(conf: Path | None, flag: str) -> None:
    raise ConfInvalid(f"{conf} says what to run by DockerConf or image, and so does {flag}")
