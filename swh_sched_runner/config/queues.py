"""Queues of task types: what they are called, and the limit of one that several share."""

from __future__ import annotations

from collections.abc import Iterable
from string import Formatter
from typing import Any


def queue_name(backend_name: str, template: str, *, priority: bool) -> str:
    """The queue of tasks with this ``backend_name``, with or without a priority; ``template`` is ``priority_queue``."""
    return template.format(backend_name=backend_name) if priority else backend_name


def template_fault(value: Any) -> str | None:
    """Why ``value`` is no such template, or None."""
    try:
        fields = {tuple(field) for _, *field in Formatter().parse(value) if field[0] is not None}
    except ValueError:
        fields = set()
    # Neither attributes nor widths: {backend_name:999999999} would take a gigabyte.
    return None if fields == {("backend_name", "", None)} else "must contain {backend_name} and no other name in braces"


def least_limit(limits: Iterable[int | None]) -> int | None:
    """The limit of a queue for which all of these hold; None is no limit.

    Of task types with one ``backend_name`` the view ``queue_limit`` says the same. Which other names ``priority_queue``
    makes equal, such as of ``a`` and of a type whose queue is called ``save_code_now:a``, SQL does not know.
    """
    return min((limit for limit in limits if limit is not None), default=None)
