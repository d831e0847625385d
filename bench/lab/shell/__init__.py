"""The lab's shell: load hosts and routing tables, a command a line."""
