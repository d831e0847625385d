"""What may be submitted: one JSON object with either instructions or a configuration.

    {"instructions": "spawn exphost squeezenet 1\\nsleep 2\\nrps exphost squeezenet 1\\n…"}

    {"configuration": {"duration": "10s", "interval": "2s",
                       "workloads": [{"service": "squeezenet", "ticks": [1, 5, 10, 5, 1]}]}}

Beside them `exp_id`, `name`, `creator` and `metadata`, all optional, at the top or, as Galileo's
REST API has it, in `experiment` with the id called `id`. A field that is not known is refused: it
is a slip of somebody who would wonder later why it had no effect.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from bench.lab.experiments.checking import json_object, storable, validated
from bench.lab.experiments.instructions import from_instructions
from bench.lab.experiments.records import Task
from bench.lab.experiments.steps import Step
from bench.lab.experiments.tables import MAX_ID, MAX_NAME
from bench.lab.experiments.workloads import Configuration, from_configuration

MAX_BODY_BYTES = 1024 * 1024
"""Of a submission; a day of ticks a second fits in."""

ExperimentId = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_ID)
]
Title = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]


class Described(BaseModel):
    """What an experiment is called, and by whom."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exp_id: ExperimentId | None = Field(None, validation_alias=AliasChoices("exp_id", "id"))
    name: Title | None = None
    creator: Title | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class Submission(Described):
    """One experiment as it comes in."""

    experiment: Described | None = None
    instructions: str | None = None
    configuration: Configuration | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.instructions is None) == (self.configuration is None):
            raise ValueError("give either instructions or a configuration")
        return self

    def described(self) -> Described:
        """Return id, name and creator, wherever they stood."""
        return self.experiment or self

    def task(self) -> Task:
        """Return what is to be kept of it."""
        configuration = None
        if self.configuration is not None:
            configuration = self.configuration.model_dump(mode="json", exclude_defaults=True)
        return Task(self.instructions, configuration, self.described().metadata)


def read_submission(body: str | bytes | Mapping[str, Any]) -> Submission:
    """Return what a body says, checked as far as that can be done before it runs.

    Raises:
        BadInput: naming the field or the line that is wrong, and how.
    """
    if isinstance(body, (str, bytes)):
        body = json_object(body, most_bytes=MAX_BODY_BYTES)
    storable(body)
    submission = validated(Submission, body)
    work_of(submission.task())
    return submission


class Work(NamedTuple):
    """What is to be done for a task.

    Attributes:
        steps: one after the other.
        services, policy: which are spread by which policy meanwhile; None leaves all as they are.
    """

    steps: tuple[Step, ...]
    services: Sequence[str] = ()
    policy: str | None = None


def work_of(task: Task) -> Work:
    """Return what is to be done for a task.

    Raises:
        BadInput: it cannot be done as it is written.
    """
    if task.configuration is not None:
        said = validated(Configuration, task.configuration)
        return Work(from_configuration(said), said.services, said.policy)
    return Work(from_instructions(task.instructions or ""))
