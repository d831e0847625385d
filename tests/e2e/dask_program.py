"""A user's program with a Dask cluster: it is scaled up and down, and ends."""

import logging
import os
import sys

from myxo.dask import MyxoCluster

TIMEOUT_S = 90


def main() -> None:
    with (
        MyxoCluster(n_workers=1, silence_logs=logging.CRITICAL) as cluster,
        cluster.get_client() as client,
    ):
        client.wait_for_workers(1, timeout=TIMEOUT_S)
        assert client.gather(client.map(lambda x: x * x, range(100))) == [x * x for x in range(100)]
        cluster.scale(2)
        client.wait_for_workers(2, timeout=TIMEOUT_S)
        first, second = client.run(os.getpid).values()
        assert len({first, second, os.getpid()}) == 3
        assert client.submit(sum, [1, 2, 3]).result(TIMEOUT_S) == 6
        cluster.scale(0)
        cluster.sync(cluster._correct_state)
        while client.nthreads():  # a worker that was told to end says so when it does
            pass
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
