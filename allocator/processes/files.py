"""The files of a process instance: what the next allocator must know of it, and its log."""

import os
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from allocator.processes.procfs import ProcessKey
from allocator.runtime import LOG_TAIL_BYTES, Running, last_lines
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.spec import ServiceSpec

LOOPBACK = "127.0.0.1"

LOG_LIMIT = 8 * 1024 * 1024

log = structlog.get_logger()


class StateFile(BaseModel):
    """What the next allocator must know; pid 0 is one that was not started yet."""

    model_config = ConfigDict(frozen=True)

    id: InstanceId
    service: ServiceName
    revision: int
    author: PeerId
    spec: ServiceSpec
    port: int
    pid: int = 0
    start_time: int = 0
    boot: str = ""

    @property
    def key(self) -> ProcessKey:
        """The process that was started."""
        return ProcessKey(self.pid, self.start_time, self.boot)


def write_state(path: Path, state: StateFile) -> None:
    """Write what must be known of an instance; only this user can read it."""
    written = path.with_suffix(".new")
    with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123
        file.write(state.model_dump_json())
    written.replace(path)


def read_state(path: Path) -> StateFile | None:
    """Return what was written of an instance; None if it cannot be read."""
    try:
        return StateFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        log.warning("instance.state_unreadable", path=str(path), error=str(exc))
        return None


def running_of(state: StateFile, *, paused: bool) -> Running:
    """Return the instance that a state file tells of."""
    return Running(
        id=state.id,
        service=state.service,
        revision=state.revision,
        author=state.author,
        spec=state.spec,
        address=f"{LOOPBACK}:{state.port}",
        paused=paused,
    )


def log_tail(path: Path) -> str:
    """Return the end of a log; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            return last_lines(file.read().decode(errors="replace"))
    except OSError:
        return ""


def bound_log(path: Path) -> None:
    """Keep the end of a log that has grown over the limit; it is open for appending."""
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        tail = log_tail(path)
        os.truncate(path, 0)
        with path.open("a") as file:
            file.write(f"[the log before this was cut]\n{tail}\n")
