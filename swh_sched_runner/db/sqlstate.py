"""What PostgreSQL's error codes mean to us: the one table that decides what is retried, waited for, or rejected."""

from __future__ import annotations

import enum


class Meaning(enum.Enum):
    """What to do after an error."""

    DATA = "the data is wrong: the same values are refused each time, whoever sends them"
    CONFLICT = "another transaction was in the way: the same one may succeed at once"
    AWAY = "the session or the server went away: the same transaction may succeed on another connection"
    LOCK = "the wait for a lock reached its timeout"
    STOPPED = "the statement was stopped, by its timeout or by an administrator"
    REFUSED = "it may succeed when the server, its rights or its schema are corrected: the data is not the cause"


# Code or class of codes (its first two characters): what it means, and why. A code wins over its class.
TABLE: dict[str, tuple[Meaning, str]] = {
    "00": (Meaning.REFUSED, "no error at all: its meaning in an error is undefined"),
    "01": (Meaning.REFUSED, "a warning that somebody raises as an error"),
    "02": (Meaning.REFUSED, "raised by code on the server, not by values"),
    "03": (Meaning.REFUSED, "a protocol violation, not wrong values"),
    "08": (Meaning.AWAY, "the connection broke"),
    "09": (Meaning.REFUSED, "a trigger failed: it is on the tables of this database, whatever the values"),
    "0A": (Meaning.REFUSED, "the server can't do it, as it is built or configured"),
    "0B": (Meaning.REFUSED, "about transactions, not values"),
    "0F": (Meaning.REFUSED, "about large objects, which we don't have"),
    "0L": (Meaning.REFUSED, "rights, which an administrator can give"),
    "0P": (Meaning.REFUSED, "roles, which an administrator can correct"),
    "0Z": (Meaning.REFUSED, "raised by code on the server"),
    "10": (Meaning.REFUSED, "about XQuery, which we don't use"),
    "20": (Meaning.REFUSED, "raised by code on the server: a case without a branch"),
    "21": (Meaning.REFUSED, "several rows where one was expected: rows of others, which can be corrected"),
    "22": (Meaning.DATA, "a value that its type can't hold: out of range, not in the encoding, not JSON"),
    "23": (Meaning.DATA, "a value that a constraint of the table forbids"),
    "24": (Meaning.REFUSED, "about cursors, not values"),
    "25": (Meaning.REFUSED, "the state of the transaction"),
    "25006": (Meaning.REFUSED, "read only: a standby, or a server that was made so, until it is the primary again"),
    "25P03": (Meaning.AWAY, "the session was ended by idle_in_transaction_session_timeout"),
    "25P04": (Meaning.STOPPED, "transaction_timeout"),
    "26": (Meaning.REFUSED, "about prepared statements: a pooler between us and the server"),
    "27": (Meaning.REFUSED, "a trigger changed the row that the statement changes"),
    "28": (Meaning.REFUSED, "the login is refused until an administrator corrects it"),
    "2B": (Meaning.REFUSED, "rights, which an administrator can give"),
    "2D": (Meaning.REFUSED, "about transactions, not values"),
    "2F": (Meaning.REFUSED, "a function on the server failed"),
    "34": (Meaning.REFUSED, "about cursors, not values"),
    "38": (Meaning.REFUSED, "a function on the server failed"),
    "39": (Meaning.REFUSED, "a function on the server failed"),
    "3B": (Meaning.REFUSED, "about savepoints, not values"),
    "3D": (Meaning.REFUSED, "the database is not there: it may be restored"),
    "3F": (Meaning.REFUSED, "the schema is not there: it may be restored"),
    "40": (Meaning.REFUSED, "rolled back, without a hint that a retry helps"),
    "40001": (Meaning.CONFLICT, "serialization_failure"),
    "40P01": (Meaning.CONFLICT, "deadlock_detected"),
    "42": (Meaning.REFUSED, "a table, column, function or right that is missing: an administrator can correct it"),
    "44": (Meaning.REFUSED, "a view's check option: we write into tables, so somebody put a view there"),
    "53": (Meaning.REFUSED, "a resource of the server is used up: disk, memory, a configured limit"),
    "53300": (Meaning.AWAY, "too many connections: one may be free shortly"),
    "54": (Meaning.REFUSED, "a limit that statements meet, not values"),
    "54000": (Meaning.DATA, "a value larger than the server can store or index: it never fits"),
    "54001": (Meaning.DATA, "a value nested deeper than the server's stack: it never fits"),
    "55": (Meaning.REFUSED, "an object is not in the state for it: somebody is changing it"),
    "55P03": (Meaning.LOCK, "lock_not_available"),
    "57": (Meaning.REFUSED, "an operator intervened"),
    "57014": (Meaning.STOPPED, "query_canceled: statement_timeout, or pg_cancel_backend"),
    "57P01": (Meaning.AWAY, "admin_shutdown: the server, or the session, was ended by an administrator"),
    "57P02": (Meaning.AWAY, "crash_shutdown"),
    "57P03": (Meaning.AWAY, "cannot_connect_now: the server is starting up"),
    "57P05": (Meaning.AWAY, "idle_session_timeout"),
    "58": (Meaning.REFUSED, "the operating system below the server failed"),
    "72": (Meaning.REFUSED, "the snapshot is too old: another one may do, but nothing of ours takes that long"),
    "F0": (Meaning.REFUSED, "the server's configuration"),
    "HV": (Meaning.REFUSED, "a foreign server: somebody put a foreign table there"),
    "P0": (Meaning.REFUSED, "raised by a function or a trigger of others, as long as it exists"),
    "XX": (Meaning.REFUSED, "an internal error or a damaged page: it depends on the page, not on the values"),
}
# An extension may raise codes of its own: they do not prove that the data is wrong.
UNLISTED = Meaning.REFUSED


def meaning(code: str) -> Meaning:
    """What an error code of five characters means."""
    found = TABLE.get(code) or TABLE.get(code[:2])
    return UNLISTED if found is None else found[0]
