-- name: insert_rejected_events
-- Keep events that could not be read or applied.
insert into rejected_event (reason, body, size, properties)
select reason, body, size, cast(properties as jsonb)
from unnest(cast(:reasons as text[]), cast(:bodies as bytea[]), cast(:sizes as bigint[]), cast(:properties as text[]))
     as u (reason, body, size, properties);

-- name: trim_rejected_events
-- Drop the oldest of them beyond so many rows, bytes of bodies and seconds. Two listeners may do so at once.
delete from rejected_event
where id in (
  select id from rejected_event
  where id in (
    select id
    from (select id, received, row_number() over newest_first as n, sum(octet_length(body)) over newest_first as size
          from rejected_event
          window newest_first as (order by id desc)) as kept
    where n > :rows or size > :size or received < now() - make_interval(secs => :seconds)
  )
  for update skip locked
)
returning id;

-- name: list_rejected_events
-- The newest of them, without their bodies.
select id, received, reason, size, octet_length(body) as kept, properties
from rejected_event
order by id desc
limit :limit;

-- name: get_rejected_event
-- One of them, with its body.
select id, received, reason, size, octet_length(body) as kept, properties, body
from rejected_event
where id = :id;

-- name: lock_rejected_event
-- The same, kept from everybody else until the transaction ends.
select id, received, reason, size, octet_length(body) as kept, properties, body
from rejected_event
where id = :id
for update;

-- name: rejected_event_ids
-- Those of these ids that exist, in order; all ids without any given.
select id
from rejected_event
where cast(:ids as bigint[]) is null or id = any(cast(:ids as bigint[]))
order by id;

-- name: drop_rejected_events
-- Drop those of these ids, or all without any given, that are older than so many seconds.
delete from rejected_event
where (cast(:ids as bigint[]) is null or id = any(cast(:ids as bigint[])))
  and (cast(:seconds as float8) is null or received < now() - make_interval(secs => cast(:seconds as float8)))
returning id;
