"""The membership protocol's parameters: presets for one machine, one site, and the Internet.

Times that follow from them, with N members, h the local health score and T the timeout of a probe
(the target's smoothed RTT and four variations, within floor and ceiling):

- a peer is probed by somebody every `probe_interval_s`, on average, whatever N is, and by each
  other peer every max(N · `probe_interval_s`, `revisit_s`);
- a silent one is suspected T after a probe, and an indirect probe of about as long, later;
- and dead `suspicion_s` · max(1, log10 N) after that if three others agree, at most
  `suspicion_max_factor` times that if nobody does;
- news reach everybody in about log(N) / log(1 + `gossip_fanout`) gossip intervals.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Knobs:
    """How eagerly to probe, suspect and gossip; all times in seconds.

    Attributes:
        probe_interval_s: between the starts of two probes, × (1 + h). Less finds a crash sooner,
            for 2 datagrams a probe.
        revisit_s: between two probes of the same peer at least, × (1 + h). Keeps small networks
            quiet: without it three peers would probe each other five times a second.
        timeout_floor_s: least time that a probe is given, × (1 + h). Less blames busy machines.
        timeout_ceiling_s: most time that a direct probe is given, × (1 + h); an indirect one has
            `INDIRECT_CEILING` times that. Must be above the longest RTT of the network.
        indirect_probes: helpers that are asked to ping a silent peer. More ride out more loss, for
            4 datagrams each.
        suspicion_s: least time that a suspect has to refute, × max(1, log10 N) because news take
            longer in larger networks. Less finds a crash sooner and kills more of the living.
        suspicion_max_factor: what that is multiplied by while nobody agrees. More forgives a peer
            whose own network is bad, and finds a crash later in networks of few.
        gossip_interval_s: between two rounds of gossip, while there are news.
        gossip_fanout: peers told in each round. More is faster, for as many more datagrams.
        gossip_to_dead_s: how long the dead are among those told, so that they may refute.
        retransmit: each update is sent `retransmit` · ⌈log10(N + 1)⌉ times by each peer. More
            reach more peers under loss; the rest find out by push-pull.
        reconnect_interval_s: between two pings of a random dead peer. Less finds the other half of
            a healed network sooner.
        max_health: the most that the local health score h grows to; 0 never doubts oneself.
    """

    probe_interval_s: float
    revisit_s: float
    timeout_floor_s: float
    timeout_ceiling_s: float
    suspicion_s: float
    suspicion_max_factor: float
    gossip_interval_s: float
    reconnect_interval_s: float
    indirect_probes: int = 3
    gossip_fanout: int = 3
    gossip_to_dead_s: float = 30.0
    retransmit: int = 4
    max_health: int = 8

    @classmethod
    def local(cls) -> "Knobs":
        """Return the preset for peers on one machine: no cables, but busy cores."""
        return cls(
            probe_interval_s=0.1,
            revisit_s=0.5,
            timeout_floor_s=0.1,
            timeout_ceiling_s=0.3,
            suspicion_s=0.6,
            suspicion_max_factor=2,
            gossip_interval_s=0.1,
            reconnect_interval_s=1,
        )

    @classmethod
    def lan(cls) -> "Knobs":
        """Return the preset for RTTs up to some 300 ms: a dead peer is known within 3 s."""
        return cls(
            probe_interval_s=0.2,
            revisit_s=1.0,
            timeout_floor_s=0.2,
            timeout_ceiling_s=0.5,
            suspicion_s=1.0,
            suspicion_max_factor=2,
            gossip_interval_s=0.1,
            reconnect_interval_s=5,
        )

    @classmethod
    def wan(cls) -> "Knobs":
        """Return the preset for lines that stall for a second now and then."""
        return cls(
            probe_interval_s=0.5,
            revisit_s=2.0,
            timeout_floor_s=0.4,
            timeout_ceiling_s=1.5,
            suspicion_s=3.0,
            suspicion_max_factor=3,
            gossip_interval_s=0.25,
            reconnect_interval_s=15,
        )
