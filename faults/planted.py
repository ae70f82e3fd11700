"""Tasks that can't be sent, or never become due, as others may write them: by SQL, past every check."""

from __future__ import annotations

import json

from faults.servers import MAX_MESSAGE_BYTES

DEPTH = 960
INSERT = """
insert into task (type, arguments, next_run, current_interval, status, policy)
select %(type)s, cast(%(arguments)s as jsonb), cast(%(next_run)s as timestamptz), '1 day', 'next_run_not_scheduled',
       cast(%(policy)s as task_policy)
"""


def _as_task(x: str) -> str:
    return '{"args": [], "kwargs": {"x": ' + x + "}}"


# Arguments, as JSON, and next_run. No task has a number: by that the judge knows them.
TASKS: dict[str, tuple[str, str]] = {
    "too-large": (_as_task(json.dumps("x" * 2 * MAX_MESSAGE_BYTES)), "now"),
    "too-deep": (_as_task("[" * DEPTH + "]" * DEPTH), "now"),
    "a-list": ("[1, 2]", "now"),
    "a-text": ('"text"', "now"),
    "null": ("null", "now"),
    "args-no-list": ('{"args": 5, "kwargs": {}}', "now"),
    "kwargs-no-object": ('{"args": [], "kwargs": [1]}', "now"),
    "never-due": (_as_task("1"), "infinity"),
    "due-since-ever": (_as_task("2"), "-infinity"),
}
NAMES = tuple(TASKS)


def values(name: str, task_type: str, policy: str) -> dict[str, str]:
    """What ``INSERT`` needs to plant one."""
    arguments, next_run = TASKS[name]
    return {"type": task_type, "arguments": arguments, "next_run": next_run, "policy": policy}
