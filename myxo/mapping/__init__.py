"""`map` over the machines of a network: what to compute where, and how code and results travel."""
