"""What is asked about the state of tasks, runs and queues, and of rows that others wrote."""
