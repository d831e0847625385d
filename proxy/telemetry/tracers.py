"""Whether spans are exported, and by what."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from overlay.errors import SettingsInvalid
from overlay.names import PeerId
from proxy.telemetry.telemetry import Tracer

if TYPE_CHECKING:
    from proxy.telemetry.otel import OtelTracer

OTLP_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""OpenTelemetry's own way to say where spans go."""

Tracers = Callable[[str, str], "OtelTracer"]
"""Makes an exporter for a host and a peer."""


def tracers_of(endpoint: str) -> Tracers | None:
    """Return what makes exporters, if somebody wants spans.

    Raises:
        SettingsInvalid: OpenTelemetry is not installed.
    """
    if not endpoint and not any(os.environ.get(name) for name in OTLP_VARIABLES):
        return None
    try:
        from proxy.telemetry.otel import OtelTracer  # noqa: PLC0415  (an extra, and 0.2 s to import)
    except ImportError as exc:
        raise SettingsInvalid(
            f"spans need OpenTelemetry: pip install 'myxo[otel]' ({exc})"
        ) from exc
    return partial(OtelTracer, endpoint)


@asynccontextmanager
async def open_tracer(
    tracers: Tracers | None, hostname: str, peer: PeerId
) -> AsyncIterator[Tracer | None]:
    """Yield what exports spans; the last ones go out at the end."""
    if tracers is None:
        yield None
        return
    tracer = tracers(hostname, peer)
    try:
        yield tracer
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(tracer.shutdown)
