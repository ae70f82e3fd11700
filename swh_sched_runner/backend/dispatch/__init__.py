"""What the services dispatch by: due tasks, limits, batches that are not confirmed yet, and sessions that own them."""
