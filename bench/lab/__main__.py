"""`python -m bench.lab` is `myxo lab`."""

from bench.lab.cli import main

main()
