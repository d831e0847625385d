"""Counts the digits of some factorials, on whatever machines the network has."""

import sys

import myxo


def digits_of_factorial(n: int) -> int:
    product = 1
    for factor in range(2, n + 1):
        product *= factor
    return len(str(product))


if __name__ == "__main__":
    counts = myxo.map_sync(digits_of_factorial, range(1, 1500))
    sys.stdout.write(f"{sum(counts)} digits in {len(counts)} factorials\n")
