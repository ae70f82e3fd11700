"""A scheduler in front of a fleet of Celery workers, on PostgreSQL."""

__version__ = "0.1.0"
