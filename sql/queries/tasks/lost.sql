-- name: runs_in_flight
-- The runs that tasks in flight follow, in order of id.
select run_id
from task
where status = 'next_run_scheduled' and run_id is not null
order by run_id;

-- name: open_runs_after
-- A page of all runs by id: the last id of the page, and which of them are open. Reads the page, whatever is open.
with page as (
  select id, ended from task_run where id > :after order by id limit :limit
)
select max(id) as last, coalesce(array_agg(id order by id) filter (where ended is null), '{}') as open from page;

-- name: suspects
-- Of these runs those that are open and whose batch is closed, and what is known of each. ``state`` is all that may
-- move while evidence is collected.
select r.id, r.backend_id, t.type as task_type, tt.backend_name, t.priority is not null as priority,
       r.begun is not null and r.waits_since is null as executes,
       r.begun is not null as has_begun,
       r.worker, coalesce(jsonb_exists(r.metadata, 'attempts'), false) as received,
       coalesce(jsonb_exists(r.metadata, 'cancelled'), false) as cancelled,
       coalesce(cast(extract(epoch from clock_timestamp() - greatest(r.scheduled, r.begun, r.waits_since)) as float8),
                float8 'infinity') as seconds,
       -- The start is by the clock of the worker's machine: if that is late, the run began later than it says.
       cast(extract(epoch from clock_timestamp() - r.begun) - greatest(w.clock_offset, 0) as float8) as running_seconds,
       c.max_run_seconds,
       run_state(r) as state
from task_run r
join task t on t.id = r.task
join task_type tt on tt.type = t.type
left join dispatch_type c on c.type = t.type
left join worker w on w.id = r.worker
where r.id = any(cast(:ids as bigint[])) and r.ended is null and r.backend_id is not null
  and r.id not in (select unnest(runs) from dispatch_batch where runs is not null)
order by r.id;

-- name: still_open
-- Of these runs those that have not moved since they were looked at. After their tasks and they were locked. The array
-- tells the planner how many they are, so that it looks them up.
select r.backend_id
from unnest(cast(:ids as bigint[]), cast(:states as text[])) as seen (id, state)
join task_run r on r.id = seen.id
where r.id = any(cast(:ids as bigint[])) and r.ended is null and run_state(r) = seen.state
  and r.id not in (select unnest(runs) from dispatch_batch where runs is not null);

-- name: lives_now
-- What verdicts rest on: the lives that are not over, and those named. Whoever writes lives is locked out by then.
select id, queues, ended is null as lives, coalesce(processed > 0 and events_clock is null, false) as sends_no_events,
       coalesce(cast(online as text), '') as came, life_state(w) as state
from worker w
where ended is null or id = any(cast(:ids as bigint[]));

-- name: place_mark
-- A mark that is about to be sent; those of an hour ago say nothing any more.
with old as (
  delete from event_mark where placed < clock_timestamp() - interval '1 hour'
)
insert into event_mark (dead_letters) values (:dead_letters) returning cast(id as text);

-- name: record_marks
-- Marks that came out of a queue, in the transaction that records all before them.
update event_mark
set recorded = clock_timestamp()
where id = any(cast(:marks as uuid[])) and dead_letters = :dead_letters and recorded is null;

-- name: mark_recorded
-- Whether a mark was recorded out of the queue that it was put into.
select recorded is not null from event_mark where id = cast(:mark as uuid);

-- name: write_undecided
-- What the last round could not judge replaces what the one before could not.
with gone as (
  delete from undecided_run where run_id <> all(cast(:run_ids as bigint[]))
)
insert into undecided_run (run_id, rule, reason)
select run_id, rule, reason
from unnest(cast(:run_ids as bigint[]), cast(:rules as text[]), cast(:reasons as text[])) as u (run_id, rule, reason)
on conflict (run_id) do update set rule = excluded.rule, reason = excluded.reason
where (undecided_run.rule, undecided_run.reason) is distinct from (excluded.rule, excluded.reason);

-- name: find_run
-- The run with this id or backend id, and whether it has ended.
select id, ended is not null as ended
from task_run
where backend_id = :given or id = cast(:run_id as bigint)
order by backend_id = :given desc nulls last
limit 1;
