"""One per machine: places, starts, watches and removes instances; the gateway to them."""
