#!/usr/bin/env python3
"""A page in front of an API in front of a data service: three services, each started by the one
before it, within the request that wants it.

It prints each command as it runs it, on a network of its own; see ../walkthrough.py.
"""

from demos.walkthrough import parser, walkthrough

TIERS = ("front", "api", "data")


def main() -> None:
    made = parser("shows services that start each other, on this machine alone")
    made.add_argument("--stay", action="store_true", help="go on until Enter, for a browser")
    options = made.parse_args()
    with walkthrough(options) as demo:
        if demo.runtime == "docker":
            demo.run("python", "demos/base_image.py")
        for tier in TIERS:
            demo.add(
                f"web-{tier}",
                f"demos/web/{tier}",
                f"myxo-demo/web-{tier}:1.0",
                f"exec python3 -m demos.web.{tier}.server $SERVICE_PORT 127.0.0.1",
                sources="demos",
            )
        cold_ms = demo.ask("web-front/", expect="None so far.*(?s:.)*← .* ← ")
        seen = ("-d", "species=Fuligo septica", "-d", "place=the rotten beech", "-d", "count=3")
        demo.ask("web-front/", *seen, expect="answered")
        warm_ms = demo.ask("web-front/", expect="3 × Fuligo septica")
        if options.stay:
            port = demo.proxy.rpartition(":")[2]
            input(f"\nhttp://web-front.myxo.localhost:{port}/ in a browser; Enter ends the demo ")
    print("\nNothing ran. One request for the page started the front, which asked for the API,")
    print(f"which asked for the data service: {cold_ms:.0f} ms for all three. With all of them")
    print(f"there, the page takes {warm_ms:.0f} ms.")


if __name__ == "__main__":
    main()
