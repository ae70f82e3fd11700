-- name: watched
-- The lives that are not over, and those named: what tells whether they are. ``state`` is all that a sign moves.
select id, hostname, pid, queues, blocks, heartbeat,
       cast(extract(epoch from now() - last_sign) as float8) as silent_seconds,
       coalesce(offline > coalesce(online, began), false) as is_leaving, left_running,
       cast(extract(epoch from now() - left_at) as float8) as left_seconds,
       coalesce(processed > 0 and events_clock is null, false) as sends_no_events, missing,
       ended_by, cast(extract(epoch from now() - ended) as float8) as ended_seconds,
       coalesce(cast(online as text), '') as came, life_state(w) as state
from worker w
where ended is null or id = any(cast(:ids as bigint[]))
order by id;

-- name: ended_without_events
-- The lives that are over and sent no task events, though they had begun tasks. Reads all that are kept.
select hostname, queues, cast(extract(epoch from now() - ended) as float8) as ended_seconds
from worker
where ended is not null and processed > 0 and events_clock is null
order by id;

-- name: end_lives
-- End lives that gave no sign since they were looked at. Locks rows in order of id.
with seen as materialized (
  select id, state, ended_by
  from unnest(cast(:ids as bigint[]), cast(:states as text[]), cast(:ended_by as text[])) as u (id, state, ended_by)
), locked as materialized (
  select id from worker where id = any(cast(:ids as bigint[])) order by id for no key update
)
update worker w
set ended = now(), ended_by = seen.ended_by
from seen
join locked on locked.id = seen.id
where w.id = seen.id and w.ended is null and life_state(w) = seen.state
returning w.id, life_state(w) as state;
