#!/usr/bin/env python3
"""The whole of Myxo on this machine, in the order in which a person would type it.

It prints each command as it runs it: found a network, add a service that runs nowhere, ask for it
twice, stop everything. Docker is used if an engine answers, and plain processes if not. All state
is in a temporary folder.
"""

import shlex

from demos.walkthrough import ROOT, parser, walkthrough

SERVER = "demos/helloworld/helloworldserver"
SERVICE = "hello-world-server"
IMAGE = "myxo-demo/hello-world-server:1.0"


def main() -> None:
    options = parser("shows what Myxo does, on this machine alone").parse_args()
    with walkthrough(options) as demo:
        demo.run("make", "-s", "-C", SERVER)
        if demo.runtime == "docker":
            demo.run("python", "demos/base_image.py")
        program = shlex.quote(f"{ROOT / SERVER}/helloworldserver")
        demo.add(SERVICE, SERVER, IMAGE, f"exec {program} $SERVICE_PORT", sources=SERVER)
        cold_ms, warm_ms = (demo.ask(SERVICE, "-i", expect="\nHello, world\n") for _ in range(2))
    print(f"\n{SERVICE} ran nowhere. The first request started it and was answered in")
    print(f"{cold_ms:.0f} ms; the second, by the same instance, in {warm_ms:.1f} ms.")
    if demo.runtime == "docker":
        print(f"Images that stay in the engine: {IMAGE} and myxo-demo-base.")


if __name__ == "__main__":
    main()
