"""What the daemon of experiments can be told, and where they are kept."""

import os
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from sqlalchemy import URL

from bench.lab.experiments.database import database_url
from bench.lab.experiments.telemetry import PERIOD_S
from overlay.settings import NodeSettings

MAX_PARALLEL = 64


class ExperimentdSettings(NodeSettings):
    """Settings of `myxo lab experimentd`: `MYXO_EXPERIMENTD_*`, `MYXO_*`, `[experimentd]`."""

    section: ClassVar[str] = "experimentd"

    database: str = Field("", repr=False)
    """URL of the database; SQLite in the state directory if empty and `DB_TYPE` names no other."""

    redis: str = Field("", repr=False)
    """URL of a Redis whose list `exp:experiments:instructions` is read, too."""

    parallel: int = Field(1, ge=1, le=MAX_PARALLEL)
    """Experiments that run at once; more than one disturb each other where they share machines."""

    telemetry_period_s: float = Field(PERIOD_S, ge=0.1, le=3600)
    """Seconds between two readings of a machine; each is some 50 rows."""

    standalone: bool = False
    """Be the only load host, without a network: for trying things out."""

    def database_url(self) -> URL:
        """Return where experiments are kept."""
        return database_url(self.database, os.environ, self.state_dir)

    @property
    def runner(self) -> str:
        """This daemon's name among those that share a database, the same at each start."""
        return f"{self.hostname or os.uname().nodename}:{self.state_dir}"


def chosen_database(given: str | None = None, state_dir: Path | None = None) -> URL:
    """Return the database that is given, or else the one that the daemon's settings name."""
    said = {"database": given, "state_dir": state_dir}
    return ExperimentdSettings.load(said).database_url()
