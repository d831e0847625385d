"""A user's program that maps, under the kind of concurrency that its argument names."""

import asyncio
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import trio

import myxo

OFFSET = 3


def slow_square(x: int) -> int:
    time.sleep(0.02)
    return x * x + OFFSET


def where(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


async def endless() -> None:
    """Say how many workers there were until now, now and then."""
    workers = set()
    async for index, worker in myxo.map(where, itertools.count(), as_completed=True):
        workers.add(worker)
        if index % 20 == 0:
            sys.stdout.write(f"{len(workers)}\n")
            sys.stdout.flush()


def look(x: int) -> dict[str, Any]:
    """What code in a worker can do."""
    found: dict[str, Any] = {"square": x * x, "user": os.getuid(), "writes": 0}
    try:
        Path("/written").write_text("x")
    except OSError as error:
        found["writes"] = error.errno
    return found


def inside() -> None:
    """Say what workers saw, and which service they are of."""
    seen = myxo.map_sync(look, range(50))
    sys.stdout.write(
        json.dumps(
            {key: seen[0][key] for key in ("user", "writes")}
            | {"squares": [one["square"] for one in seen]}
        )
    )


async def main() -> None:
    results = await myxo.map(slow_square, range(100))
    sys.stdout.write(f"{sum(results)}\n")


if __name__ == "__main__":
    match sys.argv[1]:
        case "trio":
            trio.run(main)
        case "asyncio":
            asyncio.run(main())
        case "service":
            results = myxo.map_sync(f"{sys.argv[2]}/echo", range(100), max_in_flight=20)
            sys.stdout.write(f"{sum(results)}\n")
        case "inside":
            inside()
        case "endless":
            trio.run(endless)
        case "sync":
            sys.stdout.write(f"{sum(myxo.map_sync(slow_square, range(100)))}\n")
