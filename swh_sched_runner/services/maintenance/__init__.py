"""What keeps runs in order when processes die."""
