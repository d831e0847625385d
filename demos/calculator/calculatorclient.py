#!/usr/bin/env python3
"""Asks the calculator for random sums through the proxy, one every few seconds.

Usage: calculatorclient.py [--proxy 127.0.0.1:4200] [--service calculator] [--every 5] [--count N]
"""

import argparse
import random
import time
import urllib.error
import urllib.request

SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


def ask(url: str) -> str:
    """Return what the calculator answers, or what went wrong."""
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:  # noqa: S310  (always http://)
            answer: str = reply.read().decode().strip()
            return answer
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode(errors='replace').strip()}"
    except OSError as error:
        return f"no answer: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description="asks the calculator for random sums")
    parser.add_argument("--proxy", default="127.0.0.1:4200", help="HOST:PORT of the proxy")
    parser.add_argument("--service", default="calculator", help="the name it was added under")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two questions")
    parser.add_argument("--count", type=int, default=0, help="questions to ask; 0 goes on")
    options = parser.parse_args()
    asked = 0
    while True:
        operation = random.choice(list(SIGNS))
        a, b = random.randint(-99, 99), random.randint(-9, 9)
        url = f"http://{options.proxy}/{options.service}/{operation}?num1={a}&num2={b}"
        print(f"{a} {SIGNS[operation]} {b} = {ask(url)}", flush=True)
        asked += 1
        if asked == options.count:
            return
        time.sleep(options.every)


if __name__ == "__main__":
    main()
