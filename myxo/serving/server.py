"""The program of such a service's instances, by their allocator's interpreter or their image's."""

import os
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio

from myxo.requirements import Lacking, check_environment
from myxo.serving.errors import ServingError
from myxo.serving.function_app import FunctionApp
from myxo.serving.kinds import Kind, kind_of
from myxo.serving.program import ENTRY, load, unpack
from myxo.serving.service import HOST, LOOP, THREADS, Service

OWN_REQUIREMENT = "hypercorn>=0.17"
"""What the extra `myxo[serve]` brings."""

GRACE_S = 10.0
"""For requests that are under way when the instance is told to end."""

MAX_BODY_BYTES = 64 << 20


def main() -> None:
    """Serve at the port that the environment names until told to end."""
    with tempfile.TemporaryDirectory(prefix="myxo-service-") as name:
        folder = Path(name)
        try:
            check_environment(os.environ, [OWN_REQUIREMENT])
            unpack(os.environ, folder)
            sys.path.insert(0, name)
            target = load(os.environ[ENTRY], folder)
        except (ServingError, Lacking) as exc:
            sys.exit(f"the service cannot run here: {exc}")
        if isinstance(target, Service):
            target = target.target
        serve = partial(_serve, target, int(os.environ["SERVICE_PORT"]))
        anyio.run(serve, backend=os.environ[LOOP])


async def _serve(target: Any, port: int) -> None:
    # Imported here: what it is may have been said to be lacking.
    from hypercorn.config import Config  # noqa: PLC0415

    config = Config()
    config.bind = [f"{os.environ.get(HOST, '127.0.0.1')}:{port}"]
    config.graceful_timeout = GRACE_S
    config.wsgi_max_body_size = MAX_BODY_BYTES
    config.errorlog = "-"
    kind = kind_of(target)
    if kind is Kind.FUNCTION:
        target = FunctionApp(target, int(os.environ[THREADS]))
    mode: Literal["asgi", "wsgi"] = "wsgi" if kind is Kind.WSGI else "asgi"
    if os.environ[LOOP] == "trio":
        from hypercorn.trio import serve  # noqa: PLC0415
    else:
        from hypercorn.asyncio import serve  # type: ignore[assignment]  # noqa: PLC0415
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:

        async def told_to_end() -> None:
            await anext(signals)

        await serve(target, config, shutdown_trigger=told_to_end, mode=mode)


if __name__ == "__main__":
    main()
