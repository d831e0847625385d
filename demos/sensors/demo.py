#!/usr/bin/env python3
"""Many sensors, one aggregator, one predictor: what runs nowhere is started once, by the first
readings, however many come together.

It prints each command as it runs it, on a network of its own; see ../walkthrough.py.
"""

import sys

from demos.walkthrough import parser, walkthrough


def main() -> None:
    made = parser("shows fan-in and chained starts, on this machine alone")
    made.add_argument("--sensors", type=int, default=32, help="how many send at once")
    options = made.parse_args()
    with walkthrough(options) as demo:
        if demo.runtime == "docker":
            demo.run("python", "demos/base_image.py")
        for name in ("aggregator", "predictor"):
            demo.add(
                name,
                f"demos/sensors/{name}",
                f"myxo-demo/{name}:1.0",
                f"exec python3 -m demos.sensors.{name}.server $SERVICE_PORT 127.0.0.1",
                sources="demos",
            )
        sensors = ["demos/sensors/sensor.py", "--proxy", demo.proxy, "--id", "cpu"]
        sensors += ["--sensors", str(options.sensors), "--every", "0.2", "--count", "5"]
        readings = demo.run("python", *sensors, quiet=True).splitlines()
        answered = [line for line in readings if ": next " in line]
        print("\n".join([*readings[:2], "...", *readings[-2:]]))
        logs = demo.run("curl", "-sS", "--fail", f"{demo.proxy}/predictor/logs", quiet=True)
        print("\n".join([*logs.splitlines()[:3], "..."]))
        running = demo.instances()
    if len(answered) < len(readings) or running != {"aggregator": 1, "predictor": 1}:
        sys.exit(f"\nthe demo failed: {len(answered)} of {len(readings)} answered; runs: {running}")
    print(
        f"\nNothing ran. All {len(readings)} readings of {options.sensors} sensors were answered,"
    )
    print("by one aggregator and one predictor; the first of them had both started.")


if __name__ == "__main__":
    main()
