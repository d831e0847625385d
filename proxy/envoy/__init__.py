"""Envoy as the data plane: it carries warm requests, the proxy decides, and does the rest.

    client ──► Envoy ──► an instance of this machine          warm, and nothing special about it
                 │
                 └─────► the proxy, over a Unix socket         everything else

What Envoy is told are files that it watches (`folder.py`). They are worked out from what the proxy
knows anyway (`mapping.py`, `routes.py`, `clusters.py`, `bootstrap.py`: all pure), and an instance
is in them only while the proxy holds a lease on it (`loans.py`, `engine.py`).
"""
