"""Celery's side of a broker: its application, task messages, and the events of workers."""
