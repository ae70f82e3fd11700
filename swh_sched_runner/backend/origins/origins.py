"""Listed origins: what listers know of, a row for each lister, url and visit type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping

from swh_sched_runner.backend import validate
from swh_sched_runner.backend.columns import column
from swh_sched_runner.backend.origins import listers, stats
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import UnknownLister
from swh_sched_runner.model import ListedOrigin, PaginatedListedOriginList

_sql = Queries("origins/origins")

_Key = tuple[UUID, str, str]


def record(conn: Connection, origins: Sequence[ListedOrigin]) -> list[ListedOrigin]:
    """Insert or update origins; the last of a key wins. Returned in the order in which the keys first came."""
    for origin in origins:
        _check(origin)
    latest: dict[_Key, ListedOrigin] = {_key(origin): origin for origin in origins}
    if not latest:
        return []
    _refuse_unknown_listers(conn, latest)
    rows = list(latest.values())
    urls, visit_types = [row.url for row in rows], [row.visit_type for row in rows]
    stats.hold(conn, urls, visit_types)
    written = conn.execute(
        _sql.record_listed_origins,
        {
            "lister_ids": column([row.lister_id for row in rows]),
            "urls": column(urls),
            "visit_types": column(visit_types),
            "extra_loader_arguments": column([_extra(row.extra_loader_arguments) for row in rows]),
            "enabled": column([row.enabled for row in rows]),
            "last_updates": column([row.last_update for row in rows]),
            "is_forks": column([row.is_fork for row in rows]),
            "forked_from_urls": column([row.forked_from_url for row in rows]),
        },
    )
    # A UUID costs more to make than the rest of the row: a call names few listers, many times.
    lister_ids = {str(row.lister_id): row.lister_id for row in rows}
    recorded: dict[_Key, ListedOrigin] = {}
    for lister_id, url, visit_type, *others in written:
        known = lister_ids[lister_id]
        recorded[known, url, visit_type] = ListedOrigin(known, url, visit_type, *others)
    return [recorded[key] for key in latest]


def get_page(
    conn: Connection,
    lister_id: UUID | str | None,
    url: str | None,
    enabled: bool | None,
    limit: int,
    page_token: tuple[str, str] | None,
) -> PaginatedListedOriginList:
    """A page in key order of at most ``limit`` origins; longer only where one url has more visit types than that.

    A token names a lister and a url, so a page ends between two urls, never within the visit types of one.
    """
    binds = {
        "lister_id": None if lister_id is None else str(validate.uuid("lister_id", lister_id)),
        "url": None if url is None else validate.text("url", url),
        "enabled": None if enabled is None else validate.boolean("enabled", enabled),
    }
    validate.integer("limit", limit, least=1, most=2**31)
    found = _from(conn, binds, _check_token(page_token), limit + 1)
    if len(found) <= limit:
        return PaginatedListedOriginList(results=found, next_page_token=None)
    places = [(origin.lister_id, origin.url) for origin in found]
    end = limit
    while end and places[end - 1] == places[limit]:
        end -= 1
    if end:
        return PaginatedListedOriginList(results=found[:end], next_page_token=_token(found[end - 1]))
    token = _token(found[-1])
    return PaginatedListedOriginList(results=found, next_page_token=token if _from(conn, binds, token, 1) else None)


def listed_origin(row: RowMapping) -> ListedOrigin:
    """A row of listed_origins as its class; other columns of the row are left out."""
    return ListedOrigin(
        lister_id=row["lister_id"],
        url=row["url"],
        visit_type=row["visit_type"],
        extra_loader_arguments=row["extra_loader_arguments"],
        last_update=row["last_update"],
        enabled=row["enabled"],
        first_seen=row["first_seen"],
        last_seen=row["last_seen"],
        is_fork=row["is_fork"],
        forked_from_url=row["forked_from_url"],
    )


def _from(conn: Connection, binds: dict[str, Any], token: tuple[str, str] | None, at_least: int) -> list[ListedOrigin]:
    after_lister, after_url = token or (None, None)
    rows = conn.execute(
        _sql.get_listed_origins, binds | {"after_lister": after_lister, "after_url": after_url, "limit": at_least}
    )
    return [listed_origin(row) for row in rows.mappings()]


def _token(origin: ListedOrigin) -> tuple[str, str]:
    return str(origin.lister_id), origin.url


def _check_token(token: Any) -> tuple[str, str] | None:
    if token is None:
        return None
    if not isinstance(token, tuple | list) or len(token) != 2:  # a list, where it went through JSON
        validate.refuse("page_token", "must be the next_page_token of the page before", token)
    return str(validate.uuid("page_token", token[0])), validate.text("page_token", token[1])


def _key(origin: ListedOrigin) -> _Key:
    return origin.lister_id, origin.url, origin.visit_type


def _check(origin: Any) -> None:
    if not isinstance(origin, ListedOrigin):
        validate.refuse("listed_origins", "must contain ListedOrigin objects", origin)
    if not isinstance(origin.lister_id, UUID):
        validate.refuse("lister_id", "must be a UUID", origin.lister_id)
    validate.url("url", origin.url)
    validate.name("visit_type", origin.visit_type)
    if origin.last_update is not None:
        validate.timestamp("last_update", origin.last_update)
    validate.boolean("enabled", origin.enabled)
    if origin.is_fork is not None:
        validate.boolean("is_fork", origin.is_fork)
    if origin.forked_from_url is not None:
        validate.text("forked_from_url", origin.forked_from_url)


def _extra(value: Any) -> str:
    # Most origins have none.
    return "{}" if value == {} else validate.json_object("extra_loader_arguments", value)


def _refuse_unknown_listers(conn: Connection, keys: Mapping[_Key, ListedOrigin]) -> None:
    wanted = {lister_id for lister_id, _, _ in keys}
    unknown = wanted - {lister.id for lister in listers.get_by_id(conn, list(wanted))}
    if unknown:
        raise UnknownLister(value=min(map(str, unknown)))
