"""`python -m myxo` is `myxo`."""

from myxo.cli import main

main()
