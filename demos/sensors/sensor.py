#!/usr/bin/env python3
"""Sends this machine's processor use to the aggregator through the proxy, again and again.

Usage: sensor.py [--proxy 127.0.0.1:4200] [--id NAME] [--sensors 1] [--every 0.5] [--count N]

With --sensors it is so many sensors at once, NAME-1, NAME-2 and so on, each with its own pace.
"""

import argparse
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote


class Processor:
    """Use of all processors since the last look, in percent, as /proc/stat has it."""

    def __init__(self) -> None:
        self._idle, self._all = self._times()

    @staticmethod
    def _times() -> tuple[int, int]:
        times = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return times[3] + times[4], sum(times)

    def used(self) -> float:
        """Return it; 0 if no time has passed that the system counts."""
        idle, total = self._times()
        passed, rested = total - self._all, idle - self._idle
        self._idle, self._all = idle, total
        return 100 * (1 - rested / passed) if passed > 0 else 0.0


def upload(proxy: str, sensor: str, value: float) -> str:
    """Send one reading; return what is to be said of it."""
    url = f"http://{proxy}/aggregator/upload/{quote(sensor, safe='')}/{value:.2f}"
    try:
        request = urllib.request.Request(url, method="POST")
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
            said = json.load(reply)
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode(errors='replace').strip()}"
    except (OSError, ValueError) as error:
        return f"no answer: {error}"
    way = " → ".join(said["by"])
    return f"next {said['prediction']:.2f} (one of {said['together']} readings; {way})"


def run(proxy: str, sensor: str, every: float, count: int) -> None:
    """Be one sensor."""
    processor, sent = Processor(), 0
    while True:
        value = processor.used()
        said = upload(proxy, sensor, value)
        print(f"{sensor} {value:.2f}: {said}\n", end="", flush=True)  # whole lines, of many threads
        sent += 1
        if sent == count:
            return
        time.sleep(every)


def main() -> None:
    parser = argparse.ArgumentParser(description="sends this machine's processor use")
    parser.add_argument("--proxy", default="127.0.0.1:4200", help="HOST:PORT of the proxy")
    parser.add_argument("--id", default=socket.gethostname(), help="the sensor's name")
    parser.add_argument("--sensors", type=int, default=1, help="be so many sensors at once")
    parser.add_argument("--every", type=float, default=0.5, help="seconds between two readings")
    parser.add_argument("--count", type=int, default=0, help="readings of each; 0 goes on")
    options = parser.parse_args()
    names = [f"{options.id}-{n}" for n in range(1, options.sensors + 1)]
    sensors = [
        threading.Thread(target=run, args=(options.proxy, name, options.every, options.count))
        for name in (names if options.sensors > 1 else [options.id])
    ]
    for sensor in sensors:
        sensor.daemon = True  # Ctrl-C ends all of them
        sensor.start()
    for sensor in sensors:
        sensor.join()


if __name__ == "__main__":
    main()
