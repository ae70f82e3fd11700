"""The errors of the project. All are ``SchedulerException``.

``str(error)`` is the first line of the docstring with the fields filled in. The driver's error, if there is one, is the
``__cause__``.
"""

from __future__ import annotations

from typing import Any

# Longer values are cut in error messages.
SHOWN = 120


def shown(value: object) -> str:
    """The value as quoted in an error: cut to a readable length. Never raises."""
    try:
        text = repr(value)
    except Exception:  # a class of the caller's, a number of 5,000 digits, lists nested 2,000 deep
        text = f"a {type(value).__name__} that can't be shown"
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


class SchedulerException(Exception):
    """The scheduler failed: {reason}"""

    def __init__(self, *args: Any, **facts: Any) -> None:
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)
        message = (type(self).__doc__ or "").splitlines()[0]
        super().__init__(*(args or [message.format_map(facts)]))


class StaleData(SchedulerException):
    """{thing} was changed by another program meanwhile: state not updated"""


class UnknownPolicy(SchedulerException):
    """Unknown policy {policy}; known are {known}"""


class InvalidArgument(SchedulerException, ValueError):
    """{argument}: {reason} (got {value})"""


class UnknownTaskType(InvalidArgument):
    """Unknown task type {value!r}: create it first (create_task_type, or `swh-sched-runner task-type add`)"""


class UnknownQueue(InvalidArgument):
    """No task type has the queue {value!r}: {advice}"""


class DuplicateBackendId(InvalidArgument):
    """backend_id {value!r} is used by another run: use a new one"""


class UnknownTask(InvalidArgument):
    """No task has the id {value}"""


class UnknownRun(InvalidArgument):
    """No run has the id or backend_id {value}"""


class RunEnded(SchedulerException):
    """Run {run} has ended: only open runs can be lost"""


class VerdictsWithheld(SchedulerException):
    """{reason}"""


class UnknownRejectedEvent(InvalidArgument):
    """No rejected event has the id {value}"""


class UnknownWorker(SchedulerException):
    """No worker {hostname} is known that has not ended: `swh-sched-runner worker list --all` shows them"""


class WorkerAlive(SchedulerException):
    """The worker {hostname} gave a sign of life {seconds} s ago: stop it first, or forget it with --force"""


class UnknownLister(InvalidArgument):
    """No lister has the id {value}"""


class ConfigurationError(SchedulerException):
    """{reason}"""


class OptionRefused(ConfigurationError):
    """{reason}"""


class DatabaseUnavailable(SchedulerException):
    """The database can't be reached: {reason}"""


class LockTimeout(DatabaseUnavailable):
    """Another session held a lock for longer than lock_timeout: {reason}"""


class StatementTimeout(DatabaseUnavailable):
    """A statement was stopped, after statement_timeout or by an administrator: {reason}"""


class TransactionConflict(DatabaseUnavailable):
    """Each attempt conflicted with other transactions: {reason}"""


class ConnectionUnusable(SchedulerException):
    """The connection passed by the caller can't be used: {reason}"""


class StatementRefused(SchedulerException):
    """PostgreSQL refused a statement: {reason}"""


class DataRefused(StatementRefused):
    """PostgreSQL refused the data, a retry does not help: {reason}"""


class BrokerUnavailable(SchedulerException):
    """The broker can't be reached: {reason}"""


class ResultsUnavailable(BrokerUnavailable):
    """The result backend can't be reached: {reason}"""


class SchemaError(SchedulerException):
    """{reason}"""


class AdoptionRefused(SchemaError):
    """This database can't be adopted: {reason}"""


class AdoptionStopped(SchedulerException):
    """The adoption stopped at: {step}: {reason}. Completed steps are kept: correct the cause and start it again"""


class SessionLost(SchedulerException):
    """Dispatcher session {session_id} lost its lock: it sends nothing more, and a new session starts"""


class MessageUnsendable(SchedulerException):
    """The message can't be sent: {reason}"""


class QueueRefused(SchedulerException):
    """The broker refused queue {queue!r}: {reason}. Declare it as the workers do (configuration, broker.queues)"""


class DepthUnreadable(SchedulerException):
    """The length of queue {queue!r} can't be read: {reason}. Nothing is sent to it"""


class ServiceInTrouble(SchedulerException):
    """{reason}"""


class NotRunning(SchedulerException):
    """{missing} is not configured and nothing runs in {directory}: run `swh-sched-runner up`, or configure it"""


class FileNotRead(NotRunning):
    """{missing} is not configured and nothing runs in {directory}: {file} was not read: {reason}"""


class DataDirectoryInUse(SchedulerException):
    """{directory} is in use by process {pid}: another `swh-sched-runner up` or `demo`"""


class DataDirectoryVersion(SchedulerException):
    """{directory} holds data of PostgreSQL {found}, but the binaries here are of {wanted}: {advice}"""


class DataDirectoryRefused(SchedulerException):
    """{directory} can't be the data directory: {reason}"""
