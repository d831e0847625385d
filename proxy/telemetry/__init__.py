"""What is kept and told of each request: metrics, log, spans, and why it was decided so."""
