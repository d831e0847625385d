"""What may start here, and when: the operator's rules, the room there is, the order of starts."""
