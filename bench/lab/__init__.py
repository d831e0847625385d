"""The experiment lab: traces, queues, load, experiments and what they found."""
