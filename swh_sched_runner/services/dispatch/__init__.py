"""The runner: takes due tasks and sends them to their queues."""
