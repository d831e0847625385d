"""A user's program that maps, under the kind of concurrency that its argument names."""

import asyncio
import sys
import time

import trio

import myxo

OFFSET = 3


def slow_square(x: int) -> int:
    time.sleep(0.02)
    return x * x + OFFSET


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
        case "sync":
            sys.stdout.write(f"{sum(myxo.map_sync(slow_square, range(100)))}\n")
