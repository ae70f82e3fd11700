"""What a round looks up in the database while it goes on: by a connection that the runners don't share."""

from __future__ import annotations

from typing import Any

import psycopg2
import psycopg2.extensions

LEFT = """
select (select count(*) from task where status = 'next_run_not_scheduled' and run_id is null and isfinite(next_run))
     + (select count(*) from listed_origins o
        where not exists (select from origin_visit_stats s where s.url = o.url and s.last_scheduled is not null))
     + (select count(*) from dispatch_batch)
"""
OPEN = "select count(*) from task_run where ended is null"
PROMISING = (
    "select o.pid from dispatch_batch b join dispatcher_session o on o.id = b.session_id order by random() limit 1"
)
OWNERS = "select count(*) from dispatcher_session"
END_SESSION = """
select pg_terminate_backend(o.backend_pid) from dispatcher_session o join pg_stat_activity a on a.pid = o.backend_pid
where a.datname = current_database() order by random() limit 1
"""
# Classes of errors of a server that goes down, comes up or ends a session; one that is gone gives no code at all.
AWAY = ("08", "57")


class Window:
    """Answers None while the server doesn't."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._conn: psycopg2.extensions.connection | None = None

    def left(self) -> int | None:
        """How many tasks, visits and open batches still wait."""
        return self._ask(LEFT)

    def open_runs(self) -> int | None:
        """How many runs have not ended."""
        return self._ask(OPEN)

    def unconfirmed(self) -> int | None:
        """The pid of a runner that has an open batch now."""
        return self._ask(PROMISING)

    def sessions(self) -> int | None:
        """How many runners have come up."""
        return self._ask(OWNERS)

    def end_session(self) -> None:
        """End the session that holds the lock of some runner."""
        self._ask(END_SESSION)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _ask(self, query: str) -> int | None:
        answer = self._ask_for(query)
        return None if answer is None else int(answer)

    def _ask_for(self, query: str) -> Any:
        """The first value, None if there is none."""
        try:
            if self._conn is None:
                self._conn = psycopg2.connect(self._url)
                self._conn.autocommit = True
            with self._conn.cursor() as cursor:
                cursor.execute(query)
                row = cursor.fetchone()
        except psycopg2.Error as error:
            if error.pgcode is not None and not error.pgcode.startswith(AWAY):
                raise
            self.close()
            return None
        return None if row is None else row[0]
