"""The host lab: many hosts on one machine, and the network between them as one wants it.

A host is a set of namespaces of this kernel (`namespaces.py`, `wiring.py`, `hosts.py`): its own
interfaces, routes, firewall, processes and name. Its only way out is a TUN device whose other end
is held by the *router* (`router.py`, `loop.py`), a process that hands each packet on when the link
between the two hosts says so (`link.py`, `switch.py`): after its delay, with its jitter, at its
bandwidth, or never. What a lab consists of is a plan (`plan.py`, `presets.py`, `geo.py`); `lab.py`
makes one of it:

    with open_lab(make_plan(hosts=3, preset="wan")) as lab:
        a, b, c = lab.hosts
        lab.link(a, b).set(delay_s=0.1)
        a.run(["ping", "-c", "1", b.ip])
        lab.cut_host(c)

Nothing that a lab makes has a name that could outlive it. Each host lives as long as the router
holds the other end of its lifeline, the router of a `with` block as long as its owner holds its
standard input, so that a kill -9 of either takes everything down but a folder and empty cgroups;
`leftovers.py` removes those. A lab needs root.
"""
