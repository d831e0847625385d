"""The `registry-service` and `registry-cli` commands."""

import functools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import trio
import typer

from overlay import options
from overlay.cli import FAILED, new_app, refusing, run_app, run_daemon
from overlay.errors import MyxoError, SettingsInvalid
from overlay.identity import Identity, load_or_create
from overlay.names import PeerId, ServiceName, service_name
from overlay.revision import SignedRevision
from overlay.settings import owner_key_path
from overlay.spec import ServiceSpec
from registry.adding import Wanted, how_it_travels, spec_of, wanted
from registry.client import RegistryClient, next_revision, open_client
from registry.settings import CliSettings, RegistrySettings
from registry.showing import as_json, as_table, as_text, what_runs

_SERVICE_HELP = """Keep the network's definitions: what each service is.

Without an etcd flag they are kept in SQLite, by one registry-service a network. With etcd there can
be several. Metrics are at port 9102.

Examples:

\b
  registry-service --bootstrap /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo... --psk "correct horse"
  registry-service --new-etcd-cluster --etcd-ip 10.0.0.2 --bootstrap /ip4/10.0.0.1/tcp/4001/p2p/...
  registry-service --etcd-ip 10.0.0.3 --bootstrap /ip4/10.0.0.1/tcp/4001/p2p/...
  registry-service --etcd http://10.0.0.9:2379 --bootstrap /ip4/10.0.0.1/tcp/4001/p2p/...
"""

_CLI_HELP = """Say what services are: add, get, list, delete, history, rollback.

Examples:

\b
  registry-cli --bootstrap /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo... list
  registry-cli --bootstrap ... add --dir ./hello service-conf.json alice/hello:1.0 hello
"""

service_app = new_app(_SERVICE_HELP)
cli_app = new_app(_CLI_HELP, no_args_is_help=True)

_ETCD = "etcd"


@service_app.command(help=_SERVICE_HELP)
@refusing
def registry_service(
    bootstrap: options.Bootstraps = None,
    psk: options.Psk = None,
    etcd: Annotated[
        list[str] | None,
        typer.Option(
            "--etcd",
            metavar="ENDPOINT",
            help="Keep definitions in the etcd at this endpoint, such as http://10.0.0.9:2379; "
            "may be repeated.",
            rich_help_panel=_ETCD,
        ),
    ] = None,
    new_etcd_cluster: Annotated[
        bool | None,
        typer.Option("--new-etcd-cluster", help="Start a local etcd as a new cluster's first."),
    ] = None,
    etcd_ip: Annotated[
        str | None,
        typer.Option(
            "--etcd-ip",
            metavar="IP",
            help="Where the local etcd listens and what it advertises [default: 127.0.0.1]; "
            "without --new-etcd-cluster it joins the etcd of another registry-service.",
        ),
    ] = None,
    etcd_client_port: Annotated[
        int | None,
        typer.Option(
            "--etcd-client-port",
            metavar="PORT",
            help="The local etcd's port for clients. [default: 2379]",
        ),
    ] = None,
    etcd_peer_port: Annotated[
        int | None,
        typer.Option(
            "--etcd-peer-port",
            metavar="PORT",
            help="The local etcd's port for other members. [default: 2380]",
        ),
    ] = None,
    etcd_ca: Annotated[
        Path | None,
        typer.Option("--etcd-ca", metavar="FILE", help="Who signed etcd's certificates (PEM)."),
    ] = None,
    etcd_cert: Annotated[
        Path | None,
        typer.Option("--etcd-cert", metavar="FILE", help="The certificate to show to etcd."),
    ] = None,
    etcd_key: Annotated[
        Path | None, typer.Option("--etcd-key", metavar="FILE", help="Its private key.")
    ] = None,
    etcd_user: Annotated[
        str | None,
        typer.Option(
            "--etcd-user",
            metavar="USER",
            help="For an etcd that asks for one; the password is MYXO_REGISTRY_ETCD_PASSWORD.",
        ),
    ] = None,
    local: Annotated[
        bool | None, typer.Option("--local", help="Serve without joining a network, for trials.")
    ] = None,
    hostname: options.Hostname = None,
    p2p_listen_addr: options.P2pListen = None,
    announce: options.Announce = None,
    reachable: options.Reachable = None,
    prom_listen_addr: options.PromListen = None,
    keyfile: options.Keyfile = None,
    ephemeral: options.Ephemeral = None,
    state_dir: options.StateDir = None,
    admin: options.Admin = None,
    config: options.Config = None,
    log_level: options.LogLevel = None,
    version: options.Version = False,
) -> None:
    """Parse, load the settings, run."""
    del version
    settings = RegistrySettings.load(
        {
            "bootstraps": bootstrap,
            "psk": psk,
            "etcd": etcd,
            "new_etcd_cluster": new_etcd_cluster,
            "etcd_ip": etcd_ip,
            "etcd_client_port": etcd_client_port,
            "etcd_peer_port": etcd_peer_port,
            "etcd_ca": etcd_ca,
            "etcd_cert": etcd_cert,
            "etcd_key": etcd_key,
            "etcd_user": etcd_user,
            "local": local,
            "hostname": hostname,
            "p2p_listen_addr": p2p_listen_addr,
            "announce": announce,
            "reachable": reachable,
            "prom_listen_addr": prom_listen_addr,
            "keyfile": keyfile,
            "ephemeral": ephemeral,
            "state_dir": state_dir,
            "admin": admin,
            "log_level": log_level,
        },
        config,
    )
    settings.check()
    if settings.local:
        settings = settings.model_copy(update={"bootstraps": ()})
    elif not settings.bootstraps:
        raise SettingsInvalid(options.NO_BOOTSTRAP)
    from registry.service import run  # noqa: PLC0415  (slow to import, and `--help` needs none of it)

    run_daemon(functools.partial(run, settings), log_level=settings.log_level, daemon="registry")


# registry-cli

WONDER_S = 2.0
"""It takes half a second to join a network that is there."""

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The service's name.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@cli_app.callback()
@refusing
def registry_cli(
    context: typer.Context,
    bootstrap: options.Bootstraps = None,
    psk: options.Psk = None,
    config: options.Config = None,
    log_level: options.LogLevel = None,
    version: options.Version = False,
) -> None:
    """Take what comes before the sub-command."""
    del version
    flags = {"bootstraps": bootstrap, "psk": psk, "log_level": log_level}
    context.obj = functools.partial(CliSettings.load, flags, config)


_ADD_HELP = """Define a service, or change what it is.

Builds the image IMAGE as CONFIG (service-conf.json, or YAML) says, pushes it where its name says
(user/repository:tag is Docker Hub, host:port/... that registry), and registers it as NAME.
In CONFIG, RTT is in milliseconds, CpuReq in millicores, MemoryReq in MiB; 0 is no requirement.

Examples:

\b
  registry-cli add --dir ./hello service-conf.json alice/hello:1.0 hello
  registry-cli add --no-push --dir ./hello service-conf.json hello:1.0 hello
  registry-cli add --image nginx:1.25 web
  registry-cli add --process 'exec python3 -m http.server --bind 127.0.0.1 $SERVICE_PORT' files
"""


@cli_app.command(help=_ADD_HELP)
@refusing
def add(
    context: typer.Context,
    arguments: Annotated[
        list[str], typer.Argument(metavar="[CONFIG [IMAGE]] NAME", help="As in the examples.")
    ],
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where the sources of Copy are.")
    ] = Path(),
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="IMAGE", help="Run this image as it is; build nothing."),
    ] = None,
    process: Annotated[
        str | None,
        typer.Option("--process", metavar="COMMAND", help="Run this shell command; no container."),
    ] = None,
    conf: Annotated[
        Path | None,
        typer.Option("--conf", metavar="FILE", help="Further fields, with --image or --process."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=1, max=65535, help="Where the service listens in its container."
        ),
    ] = None,
    editor: Annotated[
        list[str] | None,
        typer.Option("--editor", metavar="KEY", help="An owner key that may change it too."),
    ] = None,
    no_push: Annotated[
        bool, typer.Option("--no-push", help="Keep the image on this machine.")
    ] = False,
    json_output: _Json = False,
) -> None:
    """Build, push, sign, register."""
    want = wanted(arguments, image=image, process=process, conf=conf, directory=directory)
    editors = None if not editor else tuple(PeerId(key) for key in editor)

    from registry.docker import Engine  # noqa: PLC0415  (0.2 s to import, and only this needs it)

    async def command(registry: RegistryClient) -> None:
        newest = await registry.get(want.name)
        spec = await spec_of(
            want, Engine(), directory=directory, port=port, push=not no_push, progress=_say
        )
        signed = next_revision(_owner(), want.name, newest, spec, editors)
        if newest is not None and _same(newest, signed):
            _show(newest, json_output, f"{want.name} is unchanged at revision ")
            return
        await registry.add(signed)
        if spec.image is not None and (warning := how_it_travels(spec.image)):
            _say(f"note: {warning}")
        _show(signed, json_output, f"added {want.name}: {_how(want, signed)}, revision ")

    _run(context, command)


@cli_app.command()
@refusing
def get(context: typer.Context, name: _Name, json_output: _Json = False) -> None:
    """Show what a service is. Example: registry-cli get hello."""
    service = service_name(name)

    async def command(registry: RegistryClient) -> None:
        found = await registry.current(service)
        _print(as_json(found) if json_output else as_text(found))

    _run(context, command)


@cli_app.command("list")
@refusing
def list_services(context: typer.Context, json_output: _Json = False) -> None:
    """List all services. Example: registry-cli list --json."""

    async def command(registry: RegistryClient) -> None:
        found = await registry.services()
        if json_output:
            _print([as_json(signed) for signed in found])
        elif found:
            _print(as_table(found))
        else:
            _say("no services yet; `registry-cli add --help` shows how to define one")

    _run(context, command)


@cli_app.command()
@refusing
def delete(context: typer.Context, name: _Name, json_output: _Json = False) -> None:
    """Delete a service; its name is free then. Example: registry-cli delete hello."""
    service = service_name(name)

    async def command(registry: RegistryClient) -> None:
        newest = await registry.current(service)
        signed = next_revision(_owner(), service, newest, None)
        await registry.add(signed)
        _show(signed, json_output, f"deleted {service}, revision ")

    _run(context, command)


@cli_app.command()
@refusing
def history(context: typer.Context, name: _Name, json_output: _Json = False) -> None:
    """List a service's revisions. Example: registry-cli history hello."""
    service = service_name(name)

    async def command(registry: RegistryClient) -> None:
        found = await registry.history(service)
        _print([as_json(signed) for signed in found] if json_output else as_table(found))

    _run(context, command)


@cli_app.command()
@refusing
def rollback(
    context: typer.Context,
    name: _Name,
    revision: Annotated[
        int, typer.Argument(metavar="REVISION", min=1, help="As `history` numbers them.")
    ],
    json_output: _Json = False,
) -> None:
    """Make a service what it was at an earlier revision. Example: registry-cli rollback hello 3."""
    service = service_name(name)

    async def command(registry: RegistryClient) -> None:
        kept = await registry.history(service)
        signed = next_revision(_owner(), service, kept[-1], _spec_at(kept, service, revision))
        await registry.add(signed)
        _show(signed, json_output, f"{service} is as at revision {revision} again, now revision ")

    _run(context, command)


def service() -> None:
    """Run as `registry-service`."""
    run_app(service_app, "registry-service")


def cli() -> None:
    """Run as `registry-cli`."""
    run_app(cli_app, "registry-cli")


def _run(context: typer.Context, command: Callable[[RegistryClient], Awaitable[None]]) -> None:
    """Run a command on the network's registry; exit 1 if it did not get to its end."""
    settings: CliSettings = context.obj()
    if not settings.bootstraps:
        raise SettingsInvalid(options.NO_BOOTSTRAP)
    done = False

    async def main() -> None:
        nonlocal done
        async with trio.open_nursery() as nursery:
            waiting = trio.CancelScope()
            nursery.start_soon(_tell_that_it_waits, settings, waiting)
            async with open_client(settings) as registry:
                waiting.cancel()
                await command(registry)
                done = True

    run_daemon(main, log_level=settings.log_level)
    if not done:
        raise typer.Exit(FAILED)


async def _tell_that_it_waits(settings: CliSettings, waiting: trio.CancelScope) -> None:
    """Say for whom this command waits, unless it is found before a person wonders."""
    with waiting:
        await trio.sleep(WONDER_S)
        _say(
            f"waiting for the registry of the network at {', '.join(settings.bootstraps)}, "
            f"{settings.timeout_s:g} s at most"
        )


def _owner() -> Identity:
    return load_or_create(owner_key_path())


def _spec_at(kept: list[SignedRevision], name: ServiceName, number: int) -> ServiceSpec:
    for signed in kept:
        if signed.revision.number == number and signed.revision.spec is not None:
            return signed.revision.spec
    numbers = ", ".join(str(s.revision.number) for s in kept if s.revision.spec is not None)
    raise MyxoError(f"{name} has no revision {number} to go back to; there are: {numbers}")


def _same(newest: SignedRevision, signed: SignedRevision) -> bool:
    return (newest.owner, newest.revision.spec, newest.revision.editors) == (
        signed.owner,
        signed.revision.spec,
        signed.revision.editors,
    )


def _how(want: Wanted, signed: SignedRevision) -> str:
    spec = signed.revision.spec
    if spec is None or spec.image is None:
        return f"runs {want.process!r}"
    done = "built" if want.build is not None else "found"
    pushed = f", pushed as {spec.image.repo_digest}" if spec.image.repo_digest else ", not pushed"
    pushed = pushed if want.build is not None else ""
    return f"{done} {what_runs(spec)} ({spec.image.config_digest[:19]}){pushed}"


def _show(signed: SignedRevision, json_output: bool, text: str) -> None:
    _print(as_json(signed) if json_output else f"{text}{signed.revision.number}")


def _print(what: Any) -> None:
    typer.echo(what if isinstance(what, str) else json.dumps(what, indent=2, ensure_ascii=False))


def _say(text: str) -> None:
    typer.echo(text, err=True)
