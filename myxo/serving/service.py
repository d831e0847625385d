"""`myxo.service`: what a program has becomes a service of the network."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

from myxo.requirements import IMAGE, REQUIRES, requirement
from myxo.serving.errors import NotRegistered, NotServable
from myxo.serving.kinds import kind_of
from myxo.serving.program import Program, program_of
from overlay.names import ServiceName, near_names, service_name
from overlay.spec import ServiceSpec

COMMAND = 'exec "$SERVICE_PYTHON" -m myxo.serving.server'
HOST = "SERVICE_HOST"
IMAGE_COMMAND = f"{HOST}=0.0.0.0 exec python3 -m myxo.serving.server"
"""By the image's own; what is listened on in a container is reached from its machine alone."""

LOOP = "SERVICE_LOOP"
THREADS = "SERVICE_THREADS"
REGISTERING = "myxo.mapping.registering"
REGISTERING_TIMEOUT_S = 120.0

Loop = Literal["asyncio", "trio"]

P = ParamSpec("P")
R = TypeVar("R")


class Service(Generic[P, R]):
    """A function or an application, and what the network is to know of it; called, it is itself.

    Attributes:
        target: the function or application.
        name: of the service.
        requires: what must be installed where it runs, as pip writes it.
        loop: under which an application or an asynchronous function runs.
        image: that its containers run from, by name; None where instances are processes.
        definition: further fields of `overlay.spec.ServiceSpec`.
    """

    def __init__(
        self,
        target: Callable[P, R],
        *,
        name: str | None = None,
        requires: Sequence[str] = (),
        loop: Loop = "asyncio",
        image: str | None = None,
        definition: Mapping[str, Any] | None = None,
        program: Program | None = None,
    ) -> None:
        kind_of(target)
        functools.update_wrapper(self, target, updated=())
        self.target = target
        self.name = service_name(name or _name_of(target))
        self.requires = tuple(requirement(one) for one in requires)
        self.loop = loop_of(loop)
        self.image = image
        self.definition = dict(definition or {})
        self._program = program
        _check_fields(self.definition)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call what it is made of, here."""
        return self.target(*args, **kwargs)

    def spec(self) -> ServiceSpec:
        """Return what the network is told: how it runs, its program and what it needs.

        The image is not in it: which one its name stands for, `register` finds out.

        Raises:
            TooLarge: the program is larger than a definition carries.
            Unpicklable: it has no module, and cannot be pickled.
        """
        program = self._program or program_of(self.target, *_place_of(self.target))
        fields = {**self._runs(), **self.definition}
        env = {**fields.pop("env", {}), **program.environment()}
        env |= {REQUIRES: json.dumps(self.requires), LOOP: self.loop}
        env |= {} if self.image is None else {IMAGE: self.image}
        spec = ServiceSpec(env=env, **fields)
        return spec.model_copy(update={"env": {**env, THREADS: str(spec.concurrency)}})

    def _runs(self) -> dict[str, Any]:
        if self.image is None:
            return {"process": COMMAND}
        return {"command": IMAGE_COMMAND, "read_only": True, "cap_drop_all": True}

    def register(self, environment: Mapping[str, str] | None = None) -> None:
        """Tell the network of the service, or of what has changed in it; blocks for some seconds.

        Args:
            environment: that says which network, by `P2P_BOOTSTRAPS` and `P2P_PSK`; else this
                process's, and the network that this machine is in.

        Raises:
            NotRegistered: no registry takes it.
        """
        image = [] if self.image is None else [self.image]
        command = [sys.executable, "-m", REGISTERING, self.name, *image]
        try:
            done = subprocess.run(
                command,
                input=self.spec().model_dump_json(),
                env=None if environment is None else dict(environment),
                capture_output=True,
                text=True,
                check=False,
                timeout=REGISTERING_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as exc:
            raise NotRegistered(
                f"no registry took {self.name} within {REGISTERING_TIMEOUT_S:g} s"
            ) from exc
        if done.returncode:
            raise NotRegistered(f"{self.name} could not be registered: {done.stderr.strip()}")


@overload
def service(target: Callable[P, R], /) -> Service[P, R]: ...


@overload
def service(
    target: Callable[P, R],
    /,
    *,
    name: str | None = None,
    requires: Sequence[str] = (),
    loop: Loop = "asyncio",
    image: str | None = None,
    **definition: Any,
) -> Service[P, R]: ...


@overload
def service(
    *,
    name: str | None = None,
    requires: Sequence[str] = (),
    loop: Loop = "asyncio",
    image: str | None = None,
    **definition: Any,
) -> Callable[[Callable[P, R]], Service[P, R]]: ...


def service(
    target: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    requires: Sequence[str] = (),
    loop: Loop = "asyncio",
    image: str | None = None,
    **definition: Any,
) -> Any:
    """Make a service of a function, or of an ASGI or WSGI application; also as a decorator.

    A function takes what a request's JSON says, and its result is the answer's. The network
    knows of it once it is registered: by its `register`, or by `myxo serve`.

    Args:
        target: what is made a service of.
        name: of the service; the function's own, with `-` for `_`, if left out.
        requires: what must be installed where it runs, such as `numpy>=2`.
        loop: what an application, or an asynchronous function, runs under.
        image: an image, by name, whose containers its instances are; without, they are processes.
        definition: fields of the service's definition, such as `concurrency=4`.

    Raises:
        NotServable: it is none of these.
        InvalidName: the name is none of a service.
        TypeError: a field is none of a definition.
        ValueError: what is required is not written as pip has it.
    """

    def make(it: Callable[..., Any]) -> Service[..., Any]:
        return Service(
            it, name=name, requires=requires, loop=loop, image=image, definition=definition
        )

    return make if target is None else make(target)


def loop_of(text: str) -> Loop:
    """Return the loop of that name.

    Raises:
        ValueError: there is none.
    """
    if text == "asyncio":
        return "asyncio"
    if text == "trio":
        return "trio"
    raise ValueError(f'loop is {text!r}; it is "asyncio" or "trio"')


def _name_of(target: Callable[..., Any]) -> str:
    name = getattr(target, "__name__", "")
    if not re.fullmatch(r"\w+", name):
        raise NotServable(f"{target!r} has no name to be a service's; give one with name=")
    return str(name).strip("_").replace("_", "-").lower()


def _place_of(target: Callable[..., Any]) -> tuple[str, str]:
    """Return the module and the name under which something is found; a lambda's has a `<`."""
    module = getattr(target, "__module__", "") or ""
    name = getattr(target, "__qualname__", "<object>")
    return module, name


def _check_fields(definition: Mapping[str, Any]) -> None:
    ours = {"image", "process", "command", "port", "protocol"}
    known = sorted(set(ServiceSpec.model_fields) - ours)
    for field in definition:
        if field not in known:
            near = near_names(field, [ServiceName(one) for one in known])
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise TypeError(f"{field} is no field of a service's definition{hint}")
