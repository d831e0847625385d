"""A user's program on a machine without a daemon; its arguments say which network, if any."""

import sys

import myxo

SECOND = 2


def ask() -> None:
    sys.stdout.write(f"{myxo.call_sync('greet', 'you')}\n")
    sys.stdout.write(f"{myxo.map_sync('greet', ['a', 'b'])}\n")
    sys.stdout.write(f"{sum(myxo.map_sync(lambda x: x * SECOND, range(10)))}\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with myxo.connect(sys.argv[1], psk=sys.argv[2]):
            ask()
    else:
        ask()
