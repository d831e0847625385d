"""Load hosts: machines whose clients send requests, and who has them do so over the overlay."""
