"""How a new process takes a running proxy's place without a refused or failed request.

    new                                     old
    ├─ reads settings, certificates         serves
    ├─ "succeed", at the control socket ──► leaves the overlay without a word, frees its ports;
    │                                       goes on serving from what it knows
    │  ◄───────────────────── stepped back, with the key of its certificate
    ├─ joins under the same identity
    ├─ ready ─────────────────────────────► hands over every listening socket, accepts no more
    ├─ accepts                              ends what is under way; each connection on which no
    │  ◄──────────────────────────────────  request is goes to the new process as it is
    ├─ makes its calls to other machines ─► ends when nothing is left

At no time are there two members of one identity, and at no time does nobody hold the listening
sockets: what connects in between waits in their queues. Requests of the old process that need a
start while it is out of the overlay wait for the new one and call through it.
"""
