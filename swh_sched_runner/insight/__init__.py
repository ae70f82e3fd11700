"""What people ask about tasks and queues, answered in typed form for any front end."""
