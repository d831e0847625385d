"""The bootstrap daemon, which is also the ping-monitor."""
