"""Listers: who enumerates origins, and where an incremental listing goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from swh_sched_runner.backend import validate
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import StaleData
from swh_sched_runner.model import Lister

_sql = Queries("origins/listers")


def get(conn: Connection, name: str, instance_name: str | None) -> Lister | None:
    """The lister of that name and instance, None for an unknown one."""
    row = conn.execute(_sql.get_lister, _key(name, instance_name)).mappings().one_or_none()
    return None if row is None else Lister(**row)


def get_or_create(conn: Connection, name: str, instance_name: str | None) -> Lister:
    """The lister of that name and instance; made when it is not there, by one of several callers at once."""
    lister = get(conn, name, instance_name)
    if lister is None:
        validate.name("name", name)
        if instance_name:
            validate.name("instance_name", instance_name)
        conn.execute(_sql.insert_lister, _key(name, instance_name))
        lister = get(conn, name, instance_name)
        assert lister is not None  # ours, or that of whoever was faster and has committed
    return lister


def get_by_id(conn: Connection, ids: Sequence[UUID | str]) -> list[Lister]:
    """The listers of these ids in order of creation; unknown ids are left out."""
    checked = [str(validate.uuid("lister_ids", value)) for value in ids]
    return _read(conn, checked) if checked else []


def get_all(conn: Connection) -> list[Lister]:
    """All listers in order of creation."""
    return _read(conn, None)


def update(conn: Connection, lister: Lister) -> Lister:
    """Write the lister's state if nobody else did since it was read; else ``StaleData``."""
    if not isinstance(lister, Lister):
        validate.refuse("lister", "must be a Lister", lister)
    binds = {
        "id": str(validate.uuid("lister.id", lister.id)),
        "updated": validate.timestamp("lister.updated", lister.updated),
        "current_state": validate.json_object("lister.current_state", lister.current_state),
        "last_listing_finished_at": _timestamp("lister.last_listing_finished_at", lister.last_listing_finished_at),
        "first_visits_queue_prefix": lister.first_visits_queue_prefix,
        "first_visits_scheduled_at": _timestamp("lister.first_visits_scheduled_at", lister.first_visits_scheduled_at),
    }
    if lister.first_visits_queue_prefix is not None:
        validate.text("lister.first_visits_queue_prefix", lister.first_visits_queue_prefix)
    row = conn.execute(_sql.update_lister, binds).mappings().one_or_none()
    if row is None:
        raise StaleData(thing=f"Lister {lister.name} of {lister.instance_name!r}")
    return Lister(**row)


def find(
    conn: Connection, lister_uuid: UUID | str | None, name: str | None, instance_name: str | None
) -> list[dict[str, Any]]:
    """``id`` and ``last_listing_finished_at`` of the listers that meet all given conditions."""
    binds = {
        "id": None if lister_uuid is None else str(validate.uuid("lister_uuid", lister_uuid)),
        "name": None if name is None else validate.text("lister_name", name),
        "instance_name": None if instance_name is None else validate.string("lister_instance_name", instance_name),
    }
    return [dict(row) for row in conn.execute(_sql.find_listers, binds).mappings()]


def _timestamp(argument: str, value: datetime | None) -> datetime | None:
    return None if value is None else validate.timestamp(argument, value)


def _key(name: str, instance_name: str | None) -> dict[str, str]:
    return {
        "name": validate.text("name", name),
        "instance_name": validate.string("instance_name", "" if instance_name is None else instance_name),
    }


def _read(conn: Connection, ids: list[str] | None) -> list[Lister]:
    return [Lister(**row) for row in conn.execute(_sql.get_listers, {"ids": ids}).mappings()]
