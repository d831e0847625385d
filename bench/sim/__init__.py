"""The overlay's cores in a simulated network: thousands of peers, one process, virtual time.

What decides here is the code that daemons run: `overlay/swim.py` (membership), `coordinates.py`,
`neighbours.py` and `digest.py`. What is simulated is what is around them: the network (latency,
jitter, loss, cuts), the machines (crashes, stops, clocks that run fast), and the small shells
(`mesh.py`, `links.py`, `probing.py` of the overlay), whose rules `peer.py` follows.

Nothing is drawn but from seeded generators and nothing depends on the wall clock or on the order of
a set, so that one seed is one course of events, down to the last datagram; a digest of the course
tells whether two runs were the same.

Not simulated: what computing takes (a stopped peer stands in for it), bandwidth of datagrams,
queues in routers, NAT, and the bytes by which connections are made.
"""
