"""Databases and brokers that tests throw away."""

from swh_sched_runner.db.scratch import created, execute, of
from swh_sched_runner.pytest_plugin import flush

__all__ = ["created", "execute", "flush", "of"]
