"""Several processes that answer requests at one port, for machines with more cores (`workers`).

    daemon                                      each worker
    ├─ is the peer: membership, gossip,
    │  calls, containers, forwards, rates
    ├─ feeds view, definitions, routes, ──────► mirrors them, and reads them on each request
    │  keys of the network
    ├─ its listening sockets ─────────────────► accepts on them, too
    │                                           holds use-leases of its own
    │  ◄─────────────────────────────────────── calls to peers, rates, carried connections
    ├─ asks for counts and decisions ─────────► tells them
    └─ "retire" ──────────────────────────────► ends what is under way, and itself

They share the sockets rather than bind each its own by SO_REUSEPORT: what waits in a queue is
accepted by whoever is free, and nothing is reset when a worker dies. The daemon accepts as well, so
that a machine whose workers do not start is served as if there were none. A worker lives no longer
than its connection to the daemon, by which it sees that one's end.
"""
