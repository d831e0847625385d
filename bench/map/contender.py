"""One engine in a process of its own, which the benchmark tells what to compute.

It reads a job a line and answers each with a line, both JSON; whatever else it prints goes to its
log. Run as `python -m bench.map.contender ENGINE WORKERS`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.client import AnswerFailed
from bench.map.engines import ENGINES, Engine
from bench.map.jobs import JOBS
from bench.starting import CHECKOUT

STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine that is warm."""

    name: str
    process: "subprocess.Popen[bytes]"
    jobs: IO[str]
    answers: IO[str]
    log: Path

    def ask(self, job: str, **arguments: Any) -> Any:
        """Return what a job found.

        Raises:
            AnswerFailed: it could not be done; says what the engine printed.
        """
        try:
            self.jobs.write(json.dumps({"job": job, **arguments}) + "\n")
            self.jobs.flush()
            line = self.answers.readline()
        except OSError as exc:
            raise self._failed(str(exc)) from exc
        if not line:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)  # its last words are written then
            raise self._failed(f"ended in {job}")
        answer = json.loads(line)
        if "error" in answer:
            raise self._failed(f"{job}: {answer['error']}")
        return answer["found"]

    def _failed(self, why: str) -> AnswerFailed:
        said = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
        return AnswerFailed(f"{self.name}: {why}\n{said}")


@contextmanager
def contender(
    name: str,
    workers: int,
    folder: Path,
    environment: Mapping[str, str],
    inside: Sequence[str] = (),
) -> Iterator[Contender]:
    """Run an engine; it is gone at the end of the block.

    Args:
        name: of the engine.
        workers: how many it has.
        folder: where its log is kept.
        environment: of its process.
        inside: the command that runs it on a host of a lab, if it is to be on one.

    Raises:
        AnswerFailed: it does not start.
    """
    log = folder / f"{name}-{workers}.log"
    jobs, answers = os.pipe(), os.pipe()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*inside, sys.executable, "-m", "bench.map.contender", name, str(workers)],
            env=environment,
            cwd=CHECKOUT,
            stdin=jobs[0],
            stdout=answers[1],
            stderr=output,
        )
    os.close(jobs[0])
    os.close(answers[1])
    try:
        with os.fdopen(jobs[1], "w") as to_it, os.fdopen(answers[0]) as from_it:
            one = Contender(name, process, to_it, from_it, log)
            one.ask("warm", workers=workers)
            yield one
    finally:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _serve(engine: Engine, answers: Any) -> None:
    for line in sys.stdin:
        said = json.loads(line)
        try:
            answer = {"found": JOBS[said.pop("job")](engine, **said)}
        except Exception as exc:  # noqa: BLE001  (whatever an engine raises is its answer)
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serve until the input ends."""
    name, workers = sys.argv[1], int(sys.argv[2])
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what engines print is no answer
        with ENGINES[name](workers) as engine:
            _serve(engine, answers)


if __name__ == "__main__":
    main()
