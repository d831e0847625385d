"""How daemons log: events with keys, a console on a terminal and JSON otherwise, to stderr."""

import logging
import sys

import structlog

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure_logs(level: str = "info", *, daemon: str | None = None) -> None:
    """Set up logging for this process; called by command lines only."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(pad_event_to=24)
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(name)s: %(message)s")
    if daemon:
        structlog.contextvars.bind_contextvars(daemon=daemon)
