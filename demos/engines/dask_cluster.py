"""A Dask cluster on the machines of the network, which grows with the work and ends here."""

import logging
import time

from myxo.dask import MyxoCluster

WORKERS = 2


def square(number: int) -> int:
    time.sleep(0.01)
    return number**2


def main() -> None:
    with MyxoCluster(silence_logs=logging.ERROR) as cluster, cluster.get_client() as client:
        cluster.adapt(minimum=1, maximum=WORKERS)
        squares = client.map(square, range(500))
        print(f"the sum of 500 squares is {client.submit(sum, squares).result():,}")


if __name__ == "__main__":
    main()
