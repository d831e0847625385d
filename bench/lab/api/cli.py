"""`myxo lab api`."""

from pathlib import Path
from typing import Annotated

import typer

from overlay import options
from overlay.cli import refusing, run_daemon


@refusing
def api(
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST]:PORT", help="Of the API and the page. [default: 127.0.0.1:5001]"
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="Has the token that requests must carry; needed where others can reach the API. "
            "[env: MYXO_LAB_API_TOKEN is the token itself]",
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where experiments are kept, as `experiments` has it."),
    ] = None,
    bootstrap: options.Bootstraps = None,
    psk: options.Psk = None,
    state_dir: options.StateDir = None,
    config: options.Config = None,
    log_level: options.LogLevel = None,
) -> None:
    """Serve experiments over HTTP, and a page to draw, watch and compare them in a browser.

    Experiments are run by `myxo lab experimentd`, which shares the database with this. Any ASGI
    server can serve the same as `bench.lab.api.app:app`, with as many workers as it likes.

    \b
    Examples:
      myxo lab api
      myxo lab api --listen :5001 --token-file ~/.config/myxo/lab-token
    """
    from bench.lab.api.settings import ApiSettings  # noqa: PLC0415  (slow, `--help` needs none)

    given = {
        "listen": listen,
        "token_file": token_file,
        "database": database,
        "bootstraps": bootstrap,
        "psk": psk,
        "state_dir": state_dir,
        "log_level": log_level,
    }
    settings = ApiSettings.load(given, config)
    host, port = settings.address()
    from bench.lab.api.application import make_app  # noqa: PLC0415
    from bench.lab.api.overlay_network import open_network  # noqa: PLC0415
    from bench.lab.api.serving import check, run  # noqa: PLC0415

    app = make_app(settings, open_network)

    async def main() -> None:
        await check(settings)
        await run(app, host, port)

    run_daemon(main, log_level=settings.log_level, daemon="lab-api")
