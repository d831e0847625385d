"""Maps beside a plain loop and the engines that people pick: Ray, Dask, joblib and Pool.

Each way to compute a map is a *contender* in a process of its own (`contender.py`), warm and with
the same number of workers; the benchmark asks one after the other, in turns, so that what else the
machine does meets all. Only one computes at a time, and results are compared with what a plain loop
makes. `report.py` says who is asked for what, `places.py` where, `beside.py` starts other services
meanwhile; `figures.py` makes the ratios and `tables.py` says them.
"""
