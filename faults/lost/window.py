"""What a round of lost runs looks up in the database while it goes on."""

from __future__ import annotations

from contextlib import closing

import psycopg2

from faults.window import Window

LEFT = """
select (select count(*) from task where status = 'next_run_not_scheduled' and next_run < now() + interval '1 hour')
     + (select count(*) from task_run where ended is null)
     + (select count(*) from dispatch_batch)
"""
KNOWN_WORKERS = "select coalesce(array_agg(pid), '{}') from worker where queues is not null"
UNDECIDED = "select run_id, rule, reason from undecided_run order by 1"


class LostWindow(Window):
    """Answers None while the server doesn't."""

    def left(self) -> int | None:
        """How many tasks are due soon, runs are open and batches wait."""
        return self._ask(LEFT)

    def known_workers(self) -> set[int]:
        """The lives that have said what they consume from, by pid; none while the server doesn't answer."""
        return set(self._ask_for(KNOWN_WORKERS) or ())

    def undecided(self) -> list[tuple[object, ...]]:
        """The runs that the rescuer can't judge, and why."""
        with closing(psycopg2.connect(self._url)) as conn, conn.cursor() as cursor:
            cursor.execute(UNDECIDED)
            return cursor.fetchall()
