"""The standard library's executor on the machines of the network."""

from concurrent.futures import as_completed

import myxo


def collatz_steps(number: int) -> int:
    steps = 0
    while number != 1:
        number = 3 * number + 1 if number % 2 else number // 2
        steps += 1
    return steps


def main() -> None:
    with myxo.Executor(max_workers=2) as executor:
        numbers = {executor.submit(collatz_steps, number): number for number in range(1, 1000)}
        longest = max(as_completed(numbers), key=lambda future: future.result())
    print(f"{numbers[longest]} takes {longest.result()} steps to 1")


if __name__ == "__main__":
    main()
