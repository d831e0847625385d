"""What the control socket answers: why it was decided so, and the routing table's commands."""
